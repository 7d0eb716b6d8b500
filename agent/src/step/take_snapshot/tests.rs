use std::path::Path;
use std::time::Instant;

use holdfast_proto::ids::StepId;
use holdfast_proto::v1::{
    CancelStep, ReleaseSnapshot, TakeSnapshot, TransferData, controller_message, dispatch::Step,
};

use super::*;
use crate::attempt::Attempt;
use crate::snapshot::journal::Journals;
use crate::testing::agent::TestMachine;
use crate::testing::controller::{TestController, TestSession};
use crate::testing::hook_dir::HookDir;
use crate::testing::loop_disk::{LoopDir, Writer};

fn take(minimum: Consistency) -> Step {
    Step::TakeSnapshot(TakeSnapshot { disk_names: Vec::new(), minimum: minimum.into() })
}

async fn taken(session: &mut TestSession, minimum: Consistency) -> SnapshotTaken {
    match session.carry_out(take(minimum)).await {
        Outcome::SnapshotTaken(taken) => taken,
        other => panic!("no snapshot: {other:?}"),
    }
}

async fn refused(session: &mut TestSession, minimum: Consistency) -> ErrorDetail {
    match session.carry_out(take(minimum)).await {
        Outcome::Failed(detail) => detail,
        other => panic!("not failed: {other:?}"),
    }
}

async fn release(session: &mut TestSession, snapshot_id: &str) {
    let release = Step::ReleaseSnapshot(ReleaseSnapshot { snapshot_id: snapshot_id.to_owned() });
    assert!(matches!(session.carry_out(release).await, Outcome::SnapshotReleased(_)));
}

/// A machine whose hooks write down that they ran.
struct Hooked {
    dir: HookDir,
    machine: TestMachine,
}

impl Hooked {
    /// What each hook does besides; `None`: it is not configured.
    fn new(before: Option<&str>, thaw: Option<&str>, after: Option<&str>, rules: &str) -> Option<Self> {
        let dir = HookDir::new()?;
        let mut machine = TestMachine::new();
        machine.disk("data", &[1; 5000]);
        machine.extra = format!("[hooks]\n{rules}\n");
        let bodies = [("before_snapshot", before), ("after_thaw", thaw), ("after_snapshot", after)];
        for (name, body) in bodies {
            let Some(body) = body else { continue };
            let log = dir.path().join("log");
            let path = dir.script(name, &format!("echo $HOLDFAST_HOOK >> {}\n{body}", log.display()));
            machine.extra.push_str(&format!("{name} = {path:?}\n"));
        }
        Some(Self { dir, machine })
    }

    /// The hooks that ran since the last look.
    fn ran(&self) -> Vec<String> {
        let path = self.dir.path().join("log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn marks(&self) -> usize {
        std::fs::read_dir(self.machine.path().join("state/snapshots")).unwrap().count()
    }
}

fn codes(warnings: &[ErrorDetail]) -> Vec<&str> {
    warnings.iter().map(|warning| warning.code.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_hooks_a_snapshot_is_application_consistent() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let show = format!("printf '%s' \"$HOLDFAST_DISKS\" > {}", out.path().display());
    let Some(hooked) = Hooked::new(Some(""), Some(""), Some(&show), "") else { return };
    let mut controller = TestController::start().await;
    let agent = hooked.machine.start(&controller);
    let mut session = controller.welcome().await;
    let taken = taken(&mut session, Consistency::Application).await;
    assert_eq!(taken.consistency(), Consistency::Application);
    assert!(taken.warnings.is_empty(), "{taken:?}");
    assert_eq!(hooked.ran(), ["before_snapshot", "after_thaw", "after_snapshot"]);
    let disks = std::fs::read_to_string(out.path()).unwrap();
    assert_eq!(disks, format!("data\t{}\n", hooked.machine.path().join("data.raw").display()));
    assert_eq!(hooked.marks(), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hook_is_not_enough_for_application_consistency() {
    let Some(hooked) = Hooked::new(Some(""), None, None, "") else { return };
    let mut controller = TestController::start().await;
    let agent = hooked.machine.start(&controller);
    let mut session = controller.welcome().await;
    assert_eq!(refused(&mut session, Consistency::Application).await.code, "consistency_not_reached");
    assert!(hooked.ran().is_empty(), "the application was quiesced for nothing");
    assert_eq!(taken(&mut session, Consistency::FileSystem).await.consistency(), Consistency::FileSystem);
    assert_eq!(hooked.ran(), ["before_snapshot"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_lowers_the_consistency_and_the_application_is_woken() {
    let Some(hooked) = Hooked::new(Some("exit 1"), Some(""), Some("exit 2"), "") else { return };
    let mut controller = TestController::start().await;
    let agent = hooked.machine.start(&controller);
    let mut session = controller.welcome().await;
    let taken = taken(&mut session, Consistency::FileSystem).await;
    assert_eq!(taken.consistency(), Consistency::FileSystem);
    assert_eq!(codes(&taken.warnings), ["hook_failed", "hook_failed"]);
    assert_eq!(hooked.ran(), ["before_snapshot", "after_thaw", "after_snapshot"]);
    release(&mut session, &taken.snapshot_id).await;

    let detail = refused(&mut session, Consistency::Application).await;
    assert_eq!(detail.code, "consistency_not_reached");
    assert!(detail.message.contains("before_snapshot"), "{detail:?}");
    assert_eq!(hooked.ran(), ["before_snapshot", "after_thaw"]);
    assert_eq!(hooked.marks(), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_may_be_a_condition() {
    let fail = "on_failure = \"fail\"\ntimeout = \"1s\"";
    for (before, thaw, after, code, ran) in [
        ("exit 1", "", "", "hook_failed", &["before_snapshot", "after_thaw"][..]),
        ("sleep 60", "", "", "hook_timed_out", &["before_snapshot", "after_thaw"]),
        ("", "exit 1", "", "hook_failed", &["before_snapshot", "after_thaw"]),
        ("", "", "exit 1", "hook_failed", &["before_snapshot", "after_thaw", "after_snapshot"]),
    ] {
        let Some(hooked) = Hooked::new(Some(before), Some(thaw), Some(after), fail) else { return };
        let mut controller = TestController::start().await;
        let agent = hooked.machine.start(&controller);
        let mut session = controller.welcome().await;
        let detail = refused(&mut session, Consistency::Crash).await;
        assert_eq!(detail.code, code, "{detail:?}");
        assert_eq!(hooked.ran(), ran);
        // One that could not be woken is woken again later.
        assert_eq!(hooked.marks(), usize::from(thaw == "exit 1"));
        // Nothing holds the disk.
        drop(session);
        let (_session, hello) = controller.session().await;
        assert!(hello.snapshot_ids.is_empty());
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_quiesced_if_nothing_could_wake_it() {
    let Some(hooked) = Hooked::new(Some(""), Some(""), None, "") else { return };
    let thaw = hooked.dir.path().join("after_thaw");
    std::os::unix::fs::symlink("/bin/true", hooked.dir.path().join("link")).unwrap();
    std::fs::rename(hooked.dir.path().join("link"), &thaw).unwrap();
    let mut controller = TestController::start().await;
    let agent = hooked.machine.start(&controller);
    let mut session = controller.welcome().await;
    let taken = taken(&mut session, Consistency::FileSystem).await;
    assert_eq!(codes(&taken.warnings), ["hook_refused"]);
    assert!(hooked.ran().is_empty());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_snapshot_wakes_the_application() {
    let Some(hooked) = Hooked::new(Some("sleep 60"), Some(""), Some(""), "") else { return };
    let mut controller = TestController::start().await;
    let agent = hooked.machine.start(&controller);
    let mut session = controller.welcome().await;
    let attempt = Attempt { step: StepId::generate(), number: 1 };
    session.dispatch(attempt, take(Consistency::FileSystem)).await;
    let log = hooked.dir.path().join("log");
    while !log.try_exists().unwrap() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    session.send(controller_message::Kind::Cancel(CancelStep { attempt: Some(attempt.to_wire()) })).await;
    let report = session.terminal_report().await;
    assert!(matches!(report.outcome, Some(Outcome::Cancelled(_))), "{report:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(hooked.ran(), ["before_snapshot", "after_thaw"]);
    assert_eq!(hooked.marks(), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_left_quiesced_is_woken_at_the_next_start() {
    let Some(hooked) = Hooked::new(Some(""), Some(""), None, "") else { return };
    let mut controller = TestController::start().await;
    let marks = hooked.machine.path().join("state/snapshots");
    std::fs::create_dir_all(&marks).unwrap();
    std::fs::write(marks.join(format!("{}.quiesced", SnapshotId::generate())), b"").unwrap();
    let agent = hooked.machine.start(&controller);
    let _session = controller.welcome().await;
    let began = Instant::now();
    while hooked.marks() > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody woke it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(hooked.ran(), ["after_thaw"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_if_the_application_was_not_woken_either() {
    let Some(hooked) = Hooked::new(Some(""), Some("echo no database here; exit 1"), None, "") else { return };
    let mut controller = TestController::start().await;
    let agent = hooked.machine.start(&controller);
    let mut session = controller.welcome().await;
    std::fs::remove_file(hooked.machine.path().join("data.raw")).unwrap();
    let detail = refused(&mut session, Consistency::FileSystem).await;
    for expected in ["data.raw", "quiesced still", "after_thaw", "no database here"] {
        assert!(detail.message.contains(expected), "{detail:?}");
    }
    assert_eq!(hooked.marks(), 1);
    agent.stop().await;
}

/// A machine with one disk that is mounted and written to.
fn busy_machine(image: &Path, extra: &str) -> TestMachine {
    let mut machine = TestMachine::new();
    machine.disk_at("data", image);
    machine.extra = extra.to_owned();
    machine
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_disk_in_use_outlives_the_agent_and_can_be_transferred_then() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let machine = busy_machine(&disk.image, "");
    let writer = Writer::start(vec![disk.mount_point.join("round")]);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let snapshot = taken(&mut session, Consistency::FileSystem).await;
    assert_eq!(snapshot.consistency(), Consistency::FileSystem);
    assert!(snapshot.warnings.is_empty());
    let directory = outer.mount_point.join(".holdfast-snapshots");
    let clone = directory.join(format!("{}.data", snapshot.snapshot_id));
    let content = std::fs::read(&clone).unwrap();
    agent.stop().await;
    writer.wait_for(5);

    let agent = machine.start(&controller);
    let (mut session, hello) = controller.session().await;
    assert_eq!(hello.snapshot_ids, std::slice::from_ref(&snapshot.snapshot_id));
    session.abandon(Vec::new(), Vec::new()).await;
    let transfer = TransferData { snapshot_id: snapshot.snapshot_id.clone(), gateways: Vec::new() };
    let outcome = session.carry_out(Step::TransferData(transfer)).await;
    assert!(matches!(outcome, Outcome::TransferDone(_)), "{outcome:?}");
    assert!(gateway.restore("data") == content);
    release(&mut session, &snapshot.snapshot_id).await;
    release(&mut session, &snapshot.snapshot_id).await;
    assert!(!clone.try_exists().unwrap());

    // One that the controller does not want any more.
    let snapshot = taken(&mut session, Consistency::FileSystem).await;
    drop(session);
    let (session, hello) = controller.session().await;
    assert_eq!(hello.snapshot_ids, std::slice::from_ref(&snapshot.snapshot_id));
    session.abandon(Vec::new(), vec![snapshot.snapshot_id]).await;
    let (journals, began) = (Journals::new(machine.path().join("state/snapshots")), Instant::now());
    while !journals.load().unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "not removed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_does_not_answer_ends_the_attempt_and_is_cleaned_up_later() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let mut controller = TestController::start().await;
    let machine = busy_machine(&disk.image, "[snapshot]\nprepare_limit = \"1s\"\n");
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    std::fs::write(disk.mount_point.join("dirty"), vec![1; 1 << 20]).unwrap();
    outer.freeze();
    let detail = refused(&mut session, Consistency::FileSystem).await;
    assert_eq!((detail.code.as_str(), detail.retryable), ("disk_stalled", true), "{detail:?}");
    outer.thaw();
    assert!(disk.is_writable_within(Duration::from_secs(10)));
    let directory = outer.mount_point.join(".holdfast-snapshots");
    let (journals, began) = (Journals::new(machine.path().join("state/snapshots")), Instant::now());
    while !(journals.load().unwrap().is_empty()
        && std::fs::read_dir(&directory).is_ok_and(|entries| entries.count() == 0))
    {
        assert!(began.elapsed() < Duration::from_secs(20), "something is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // And the next attempt is as good as any.
    taken(&mut session, Consistency::FileSystem).await;
    agent.stop().await;
}
