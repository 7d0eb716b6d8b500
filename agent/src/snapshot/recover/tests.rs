use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use holdfast_proto::v1::Consistency;

use super::*;
use crate::config::SnapshotConfig;
use crate::snapshot::journal::CloneRecord;
use crate::snapshot::reflink::{CloneName, DIRECTORY};
use crate::snapshot::take::{Fresh, Order, prepare};
use crate::snapshot::undertaking::Undertaking;
use crate::testing::loop_disk::{LoopDir, Mounted, Writer};
use crate::testing::skip::has_failpoints_or_skips;

const AGENT: &str = "HOLDFAST_TEST_IS_FREEZING_AGENT";

fn source(path: &Path) -> DiskSource {
    DiskSource { name: "data".to_owned(), path: path.to_owned() }
}

fn take(journals: &Journals, image: &Path) -> Fresh {
    let order = Order {
        sources: vec![source(image)],
        minimum: Consistency::FileSystem,
        needed: Vec::new(),
        limits: SnapshotConfig::default(),
    };
    prepare(Undertaking::begin(journals.clone(), StepId::generate()), order).unwrap().take().unwrap()
}

/// The program of the tests is started again, comes here, and stands still while everything is frozen.
#[test]
fn becomes_an_agent_that_stops_while_frozen() {
    let Some(arguments) = std::env::var_os(AGENT) else { return };
    let arguments = arguments.into_string().unwrap();
    let [state, image, marker] = arguments.split(':').collect::<Vec<_>>().try_into().unwrap();
    let marker = marker.to_owned();
    fail::cfg_callback("agent::frozen", move || {
        std::fs::write(&marker, b"").unwrap();
        std::thread::sleep(Duration::from_secs(60));
    })
    .unwrap();
    take(&Journals::new(state.into()), Path::new(image));
}

/// An agent as a process of its own, which has frozen the disk and goes no further.
struct FreezingAgent(Child);

impl FreezingAgent {
    fn start(dir: &LoopDir, journals_dir: &Path, disk: &Mounted) -> Self {
        let marker = dir.path().join("frozen");
        let arguments = format!("{}:{}:{}", journals_dir.display(), disk.image.display(), marker.display());
        let child = Command::new("/proc/self/exe")
            .args(["--exact", "snapshot::recover::tests::becomes_an_agent_that_stops_while_frozen"])
            .env(AGENT, arguments)
            .spawn()
            .unwrap();
        let began = Instant::now();
        while !marker.try_exists().unwrap() {
            assert!(began.elapsed() < Duration::from_secs(30), "nothing was frozen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn watchdog(&self) -> i32 {
        let parent = format!("PPid:\t{}\n", self.0.id());
        let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            status.contains(&parent).then_some(process)
        });
        found.expect("it has no watchdog")
    }
}

impl Drop for FreezingAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn recovered(journals: &Journals, image: &Path) -> Vec<Arc<Snapshot>> {
    let snapshots = Arc::new(Snapshots::new(journals.clone()));
    recover(&snapshots, vec![source(image)]);
    snapshots.ids().into_iter().filter_map(|id| snapshots.find(id)).collect()
}

fn clones(outer: &Mounted) -> usize {
    std::fs::read_dir(outer.mount_point.join(DIRECTORY)).unwrap().count()
}

#[test]
fn an_agent_killed_while_everything_is_frozen_leaves_nothing_frozen() {
    if !has_failpoints_or_skips() {
        return;
    }
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let state = tempfile::tempdir().unwrap();
    let writer = Writer::start(vec![disk.mount_point.join("round")]);
    let agent = FreezingAgent::start(&dir, state.path(), &disk);
    assert!(disk.is_frozen());
    let began = Instant::now();
    drop(agent);
    writer.wait_for(1);
    assert!(began.elapsed() < Duration::from_secs(10), "thawed after {:?}", began.elapsed());
    drop(writer);

    let journals = Journals::new(state.path().to_owned());
    assert_eq!((journals.load().unwrap().len(), clones(&outer)), (1, 1));
    assert!(recovered(&journals, &disk.image).is_empty());
    assert_eq!((journals.load().unwrap().len(), clones(&outer)), (0, 0));
}

#[test]
fn if_the_watchdog_dies_with_its_agent_the_next_start_thaws() {
    if !has_failpoints_or_skips() {
        return;
    }
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let state = tempfile::tempdir().unwrap();
    let agent = FreezingAgent::start(&dir, state.path(), &disk);
    let watchdog = rustix::process::Pid::from_raw(agent.watchdog()).unwrap();
    rustix::process::kill_process(watchdog, rustix::process::Signal::KILL).unwrap();
    drop(agent);
    assert!(disk.is_frozen(), "somebody else thawed it");
    let journals = Journals::new(state.path().to_owned());
    assert!(recovered(&journals, &disk.image).is_empty());
    assert!(disk.is_writable_within(Duration::from_secs(5)), "still frozen");
    assert_eq!((journals.load().unwrap().len(), clones(&outer)), (0, 0));
}

#[test]
fn whole_snapshots_survive_and_everything_else_goes() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let state = tempfile::tempdir().unwrap();
    let journals = Journals::new(state.path().to_owned());
    let whole = take(&journals, &disk.image).keep().unwrap();
    let whole_path = whole.disks[0].path.clone();
    let whole_id = whole.id;
    drop(whole);
    // One that was cut short behind our back, one that no journal names, and one that belongs to somebody else.
    let cut = take(&journals, &disk.image).keep().unwrap();
    std::fs::File::options().write(true).open(&cut.disks[0].path).unwrap().set_len(4096).unwrap();
    drop(cut);
    let directory = outer.mount_point.join(DIRECTORY);
    let unnamed = CloneName { snapshot: SnapshotId::generate(), disk: "data".to_owned() };
    std::fs::write(directory.join(unnamed.to_string()), b"").unwrap();
    let foreign = CloneName { snapshot: SnapshotId::generate(), disk: "other".to_owned() };
    std::fs::write(directory.join(foreign.to_string()), b"").unwrap();
    std::fs::write(directory.join("notes.txt"), b"").unwrap();

    let survivors = recovered(&journals, &disk.image);
    assert_eq!(survivors.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [whole_id]);
    assert_eq!(survivors[0].disks[0].path, whole_path);
    survivors[0].disks.iter().for_each(|disk| disk.check().unwrap());
    let mut left: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = vec![
        whole_path.file_name().unwrap().to_str().unwrap().to_owned(),
        foreign.to_string(),
        "notes.txt".to_owned(),
    ];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(journals.load().unwrap().len(), 1);
}

/// What a whole snapshot leaves on disk.
fn left_behind(journals: &Journals, image: &Path) -> (SnapshotId, std::path::PathBuf) {
    let directory = CloneDir::create(image).unwrap();
    let mut journal = Journal::new(SnapshotId::generate(), StepId::generate());
    journal.phase = Phase::Taken;
    journal.clones.push(CloneRecord {
        disk: "data".to_owned(),
        directory: directory.directory().to_owned(),
        size_bytes: 5,
    });
    journals.write(&journal).unwrap();
    let path = directory.path(&journal.clone_name(&journal.clones[0]));
    std::fs::write(&path, b"clone").unwrap();
    (journal.id(), path)
}

#[test]
fn a_recovery_that_panics_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Arc::new(Snapshots::new(Journals::new(dir.path().to_owned())));
    let ended = wait_for(|_| panic!("on purpose"), Duration::from_secs(3600), &snapshots);
    assert_eq!(ended, Recovered::Never);
}

#[tokio::test]
async fn what_is_found_late_is_held_and_what_was_taken_meanwhile_stays() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("data.raw");
    std::fs::write(&image, b"").unwrap();
    let journals = Journals::new(dir.path().to_owned());
    let (earlier, earlier_path) = left_behind(&journals, &image);
    let snapshots = Arc::new(Snapshots::new(journals.clone()));
    let found = journals.load().unwrap();
    // The disks answer only now, and the agent has long gone on.
    let (_, meanwhile) = left_behind(&journals, &image);
    recover_all(&snapshots, found, &[source(&image)]);
    assert_eq!(snapshots.ids(), [earlier]);
    assert!(earlier_path.try_exists().unwrap() && meanwhile.try_exists().unwrap());

    // Whichever is faster: what is held is known in time, or told.
    for _ in 0..200 {
        let late = Arc::new(Snapshots::new(journals.clone()));
        if recover_within(Duration::ZERO, &late, vec![source(&image)]) == Recovered::Late {
            tokio::time::timeout(Duration::from_secs(30), late.late()).await.unwrap();
        }
        assert_eq!(late.ids().len(), 2);
    }
}
