use super::*;
use crate::snapshot::mounts::Mounts;
use crate::testing::loop_disk::{LoopDir, Mounted, Writer};

pub(super) const IS_WATCHDOG: &str = "HOLDFAST_TEST_IS_WATCHDOG";
pub(super) const AS_WATCHDOG: [&str; 3] =
    ["--exact", "snapshot::watchdog::tests::becomes_a_watchdog", "--nocapture"];

const LONG: Duration = Duration::from_secs(10);

/// The program of the tests is started again in place of the agent's, and comes here.
#[test]
fn becomes_a_watchdog() {
    if std::env::var_os(IS_WATCHDOG).is_some() {
        let ended = super::serve();
        std::process::exit(i32::from(ended != std::process::ExitCode::SUCCESS));
    }
}

fn open(mounted: &[&Mounted]) -> Vec<MountedOn> {
    let mounts = Mounts::read().unwrap();
    let device =
        |mounted: &&Mounted| mounts.file_system_of(File::open(&mounted.mount_point).unwrap()).unwrap();
    mounted.iter().map(|mounted| mounts.open(device(mounted)).unwrap()).collect()
}

fn freeze(file_systems: &[MountedOn], limit: Duration) -> Result<Frozen<'_>, Failure> {
    Watchdog::start().unwrap().freeze(file_systems, limit)
}

#[test]
fn writers_stand_still_between_freeze_and_thaw() {
    let Some(dir) = LoopDir::new() else { return };
    let (Some(a), Some(b)) = (dir.ext4("a"), dir.ext4("b")) else { return };
    let writer = Writer::start(vec![a.mount_point.join("round"), b.mount_point.join("round")]);
    let file_systems = open(&[&a, &b]);
    let began = Instant::now();
    let frozen = freeze(&file_systems, LONG).unwrap();
    assert!(a.is_frozen() && b.is_frozen());
    std::thread::sleep(Duration::from_millis(300));
    let held = frozen.thaw().unwrap();
    assert!(held >= Duration::from_millis(300) && held <= began.elapsed(), "{held:?}");
    assert!(held < LONG);
    writer.wait_for(3);
}

#[test]
fn when_the_time_is_up_all_is_thawed_and_the_agent_is_told() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(a) = dir.ext4("a") else { return };
    let file_systems = open(&[&a]);
    let frozen = freeze(&file_systems, Duration::from_secs(1)).unwrap();
    assert!(a.is_writable_within(Duration::from_secs(5)), "still frozen");
    let failure = frozen.thaw().unwrap_err();
    assert!(matches!(failure.error, FreezeError::Expired), "{failure:?}");
    assert!(matches!(failure.remains, Remains::Nothing), "{failure:?}");
}

#[test]
fn an_agent_that_lets_go_thaws_at_once() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(a) = dir.ext4("a") else { return };
    let file_systems = open(&[&a]);
    drop(freeze(&file_systems, LONG).unwrap());
    assert!(a.is_writable_within(Duration::from_secs(3)), "still frozen");
}

#[test]
fn the_agent_thaws_if_the_watchdog_dies() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(a) = dir.ext4("a") else { return };
    let file_systems = open(&[&a]);
    let mut frozen = freeze(&file_systems, LONG).unwrap();
    frozen.process.child.kill().unwrap();
    frozen.process.child.wait().unwrap();
    assert!(a.is_frozen(), "nobody thawed it");
    let failure = frozen.thaw().unwrap_err();
    assert!(matches!(failure.error, FreezeError::Gone(_)), "{failure:?}");
    assert!(matches!(failure.remains, Remains::Nothing), "{failure:?}");
    assert!(!a.is_frozen());
}

#[test]
fn a_thaw_by_somebody_else_is_noticed() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(a) = dir.ext4("a") else { return };
    let file_systems = open(&[&a]);
    let frozen = freeze(&file_systems, LONG).unwrap();
    a.thaw();
    let failure = frozen.thaw().unwrap_err();
    assert!(matches!(failure.error, FreezeError::Lost { .. }), "{failure:?}");
}

#[test]
fn what_somebody_else_froze_stays_frozen_and_the_others_are_thawed() {
    let Some(dir) = LoopDir::new() else { return };
    let (Some(a), Some(b)) = (dir.ext4("a"), dir.ext4("b")) else { return };
    b.freeze();
    let file_systems = open(&[&a, &b]);
    let failure = freeze(&file_systems, LONG).unwrap_err();
    let FreezeError::Refused { mount_point, source } = &failure.error else { panic!("{failure:?}") };
    assert_eq!((mount_point, source.raw_os_error()), (&b.mount_point, Some(libc::EBUSY)));
    assert!(!a.is_frozen() && b.is_frozen());
    b.thaw();
}

#[test]
fn one_that_hangs_keeps_no_other_frozen_and_is_thawed_when_it_returns() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let (Some(hanging), Some(other)) = (dir.disk_on(&outer, "hanging"), dir.ext4("other")) else { return };
    let file_systems = open(&[&other, &hanging]);
    std::fs::write(hanging.mount_point.join("dirty"), vec![1; 1 << 20]).unwrap();
    outer.freeze();
    let failure = freeze(&file_systems, Duration::from_secs(1)).unwrap_err();
    assert!(other.is_writable_within(Duration::from_secs(3)), "the other one is still frozen");
    let FreezeError::Hanging { mount_point } = &failure.error else { panic!("{failure:?}") };
    assert_eq!(mount_point, &hanging.mount_point);
    let Remains::UntilEnd(process) = failure.remains else { panic!("{failure:?}") };
    outer.thaw();
    process.wait();
    assert!(hanging.is_writable_within(Duration::from_secs(3)), "still frozen");
}
