use std::time::Duration;

use holdfast_proto::error::{ErrorDetailExt as _, agent_error};
use holdfast_proto::ids::StepId;
use holdfast_proto::v1::{
    AckResult, CancelStep, Consistency, Fault, Ping, ReleaseSnapshot, SnapshotTaken, TakeSnapshot,
    TransferData, agent_message, controller_message, dispatch::Step, step_report::Outcome,
};
use tonic::Code;

use crate::attempt::Attempt;
use crate::backoff::Backoff;
use crate::testing::agent::TestMachine;
use crate::testing::controller::{TestController, TestSession};
use crate::testing::hook_dir::HookDir;

fn take(names: &[&str]) -> Step {
    let disk_names = names.iter().map(|name| (*name).to_owned()).collect();
    Step::TakeSnapshot(TakeSnapshot { disk_names, minimum: Consistency::FileSystem.into() })
}

fn transfer(snapshot: &str) -> Step {
    Step::TransferData(TransferData { snapshot_id: snapshot.to_owned(), gateways: Vec::new() })
}

fn release(snapshot: &str) -> Step {
    Step::ReleaseSnapshot(ReleaseSnapshot { snapshot_id: snapshot.to_owned() })
}

fn attempt(number: i64) -> Attempt {
    Attempt { step: StepId::generate(), number }
}

async fn taken(session: &mut TestSession) -> SnapshotTaken {
    match session.carry_out(take(&[])).await {
        Outcome::SnapshotTaken(taken) => taken,
        other => panic!("no snapshot: {other:?}"),
    }
}

fn failure(outcome: Outcome) -> holdfast_proto::error::ErrorDetail {
    match outcome {
        Outcome::Failed(detail) => detail,
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_sent_again_after_a_reconnect_until_it_is_acknowledged() {
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    machine.disk("data", &[1; 5000]);
    let agent = machine.start(&controller);
    let (mut session, hello) = controller.session().await;
    assert_eq!((hello.disks[0].name.as_str(), hello.disks[0].size_bytes), ("data", 5000));
    assert!(hello.snapshot_ids.is_empty() && hello.running.is_empty());
    session.abandon(Vec::new(), Vec::new()).await;
    let attempt = attempt(3);
    session.dispatch(attempt, take(&[])).await;
    let first = session.terminal_report().await;
    drop(session);

    let (mut session, hello) = controller.session().await;
    let Some(Outcome::SnapshotTaken(taken)) = first.outcome.clone() else { panic!("{first:?}") };
    assert_eq!(hello.snapshot_ids, std::slice::from_ref(&taken.snapshot_id));
    // A controller that has not seen the report yet cannot know that it will want the snapshot.
    session.abandon(Vec::new(), vec![taken.snapshot_id.clone()]).await;
    assert_eq!(session.terminal_report().await, first);
    // The same dispatch again: it is not run again, its report comes again.
    session.dispatch(attempt, take(&[])).await;
    assert_eq!(session.terminal_report().await, first);
    session.acknowledge(&first, AckResult::Recorded).await;
    assert!(matches!(session.carry_out(release(&taken.snapshot_id)).await, Outcome::SnapshotReleased(_)));
    drop(session);

    let (_session, hello) = controller.session().await;
    assert!(hello.snapshot_ids.is_empty());
    agent.stop().await;
    assert_eq!(std::fs::read_dir(machine.path().join("state/spool")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_outlives_the_agent_and_its_snapshot_does_not() {
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    machine.disk("data", &[1; 5000]);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    session.dispatch(attempt(1), take(&[])).await;
    let first = session.terminal_report().await;
    agent.stop().await;

    let agent = machine.start(&controller);
    let (mut session, hello) = controller.session().await;
    assert!(hello.snapshot_ids.is_empty() && hello.running.is_empty());
    session.abandon(Vec::new(), Vec::new()).await;
    assert_eq!(session.terminal_report().await, first);
    session.acknowledge(&first, AckResult::Stale).await;
    let Some(Outcome::SnapshotTaken(taken)) = first.outcome else { panic!() };
    let detail = failure(session.carry_out(transfer(&taken.snapshot_id)).await);
    assert_eq!(
        (detail.code.as_str(), detail.retryable, detail.fault()),
        ("snapshot_lost", true, Fault::Agent)
    );
    assert!(matches!(session.carry_out(release(&taken.snapshot_id)).await, Outcome::SnapshotReleased(_)));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_heartbeats_come_and_new_disks_are_told() {
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    let path = machine.disk("data", &[1; 5000]);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    session.send(controller_message::Kind::Ping(Ping { nonce: 77 })).await;
    std::fs::write(&path, [1; 9000]).unwrap();
    let (mut pong, mut heartbeat, mut disks) = (false, false, false);
    while !(pong && heartbeat && disks) {
        match session.message().await {
            agent_message::Kind::Pong(answer) => pong = answer.nonce == 77,
            agent_message::Kind::Heartbeat(_) => heartbeat = true,
            agent_message::Kind::DisksChanged(changed) => disks = changed.disks[0].size_bytes == 9000,
            _ => {}
        }
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_cannot_be_taken_say_why() {
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    let path = machine.disk("data", &[1; 5000]);
    machine.disk("other", &[1; 5000]);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let writer = std::fs::File::options().write(true).open(&path).unwrap();
    let detail = failure(session.carry_out(take(&[])).await);
    assert_eq!(detail.code, "disk_in_use");
    assert!(detail.message.contains("data") && !detail.action.is_empty());
    assert!(matches!(session.carry_out(take(&["other"])).await, Outcome::SnapshotTaken(_)));
    drop(writer);
    assert_eq!(failure(session.carry_out(take(&["nothing"])).await).code, "disk_not_found");
    // Held by the snapshot from above.
    let application = TakeSnapshot { disk_names: Vec::new(), minimum: Consistency::Application.into() };
    let detail = failure(session.carry_out(Step::TakeSnapshot(application)).await);
    assert_eq!(detail.code, "consistency_not_reached");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_attempts_are_told_abandoned_fenced_and_cancelled() {
    let mut controller = TestController::start().await;
    controller.gateway.state().hang_open = true;
    let mut machine = TestMachine::new();
    machine.disk("data", &[1; 5000]);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let snapshot = taken(&mut session).await.snapshot_id;
    let first = attempt(1);
    session.dispatch(first, transfer(&snapshot)).await;
    session.dispatch(first, transfer(&snapshot)).await;
    loop {
        if let agent_message::Kind::Report(report) = session.message().await {
            assert!(matches!(report.outcome, Some(Outcome::Progress(_))), "{report:?}");
            break;
        }
    }
    drop(session);

    // A reconnect tells of it once; abandoned, it ends without a word.
    let (mut session, hello) = controller.session().await;
    assert_eq!(hello.running, [first.to_wire()]);
    session.abandon(vec![first], Vec::new()).await;
    let second = Attempt { number: 2, ..first };
    let third = Attempt { number: 3, ..first };
    session.dispatch(second, transfer(&snapshot)).await;
    session.dispatch(third, transfer(&snapshot)).await;
    // Stale: a lower attempt than the one that runs.
    session.dispatch(second, transfer(&snapshot)).await;
    session.send(controller_message::Kind::Cancel(CancelStep { attempt: Some(second.to_wire()) })).await;
    session.send(controller_message::Kind::Cancel(CancelStep { attempt: Some(third.to_wire()) })).await;
    let report = session.terminal_report().await;
    assert_eq!(report.attempt, Some(third.to_wire()));
    assert!(matches!(report.outcome, Some(Outcome::Cancelled(_))), "{report:?}");
    session.acknowledge(&report, AckResult::Recorded).await;
    drop(session);

    let (session, hello) = controller.session().await;
    assert!(hello.running.is_empty());
    assert_eq!(hello.snapshot_ids, std::slice::from_ref(&snapshot));
    session.abandon(Vec::new(), vec![snapshot]).await;
    drop(session);
    let (_session, hello) = controller.session().await;
    assert!(hello.snapshot_ids.is_empty());
    agent.stop().await;
}

/// Nobody would ever tell it again.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_for_good_stops_and_keeps_no_snapshot() {
    let mut controller = TestController::start().await;
    controller.gateway.state().hang_open = true;
    let mut machine = TestMachine::new();
    machine.disk("data", &[1; 5000]);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let snapshot = taken(&mut session).await.snapshot_id;
    session.dispatch(attempt(1), transfer(&snapshot)).await;
    let refusal = |code| agent_error(code, "no").into_status(Code::PermissionDenied);
    session.refuse(refusal("machine_quarantined")).await;
    let (session, hello) = controller.session().await;
    assert_eq!((hello.snapshot_ids, hello.running.len()), (vec![snapshot], 1), "an operator may lift that");
    session.refuse(refusal("agent_revoked")).await;
    let mut left = 1;
    while left > 0 {
        // What it stops takes a moment.
        let (session, hello) = controller.session().await;
        assert_eq!(hello.snapshot_ids, [""; 0]);
        left = hello.running.len();
        session.refuse(refusal("agent_revoked")).await;
    }
    agent.stop().await;
}

/// One of an earlier process is found while another one is being taken.
#[tokio::test(flavor = "multi_thread")]
async fn it_tells_which_snapshots_are_not_being_taken() {
    let Some(hooks) = HookDir::new() else { return };
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    machine.disk("data", &[1; 5000]);
    machine.disk("other", &[1; 5000]);
    let (shown, go) = (hooks.path().join("shown"), hooks.path().join("go"));
    let body = format!("touch {shown:?}\nwhile [ ! -e {go:?} ]; do sleep 0.05; done");
    machine.extra = format!("[hooks]\nafter_snapshot = {:?}\n", hooks.script("show", &body));
    std::fs::write(&go, b"").unwrap();
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let Outcome::SnapshotTaken(earlier) = session.carry_out(take(&["data"])).await else { panic!() };
    let earlier = earlier.snapshot_id;
    std::fs::remove_file(&go).unwrap();
    std::fs::remove_file(&shown).unwrap();
    let taking = attempt(1);
    session.dispatch(taking, take(&["other"])).await;
    while !shown.try_exists().unwrap() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(session);

    let (mut session, hello) = controller.session().await;
    assert_eq!((hello.snapshot_ids.len(), hello.running), (2, vec![taking.to_wire()]));
    assert_eq!(hello.settled_snapshot_ids, std::slice::from_ref(&earlier));
    session.abandon(Vec::new(), vec![earlier]).await;
    std::fs::write(&go, b"").unwrap();
    let Some(Outcome::SnapshotTaken(taken)) = session.terminal_report().await.outcome else { panic!() };
    drop(session);
    let (_session, hello) = controller.session().await;
    assert_eq!(hello.snapshot_ids, std::slice::from_ref(&taken.snapshot_id));
    assert_eq!(hello.settled_snapshot_ids, [taken.snapshot_id]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_session_that_lasted_a_while_makes_the_waits_short_again() {
    let mut controller = TestController::start().await;
    let machine = TestMachine::new();
    let assembled = machine.assemble(&controller);
    let timing = assembled.session.config.timing.clone();
    let fresh = Backoff::new(timing.reconnect_min, timing.reconnect_max);
    let mut backoff = fresh.clone();
    while backoff == fresh {
        backoff.next_wait();
    }
    let before = backoff.clone();
    let short = async { drop(controller.welcome().await) };
    let _ = tokio::join!(assembled.session.once(&mut backoff), short);
    assert_eq!(backoff, before, "it was welcomed and sent away");
    let lasting = async {
        let session = controller.welcome().await;
        tokio::time::sleep(timing.reconnect_max * 2).await;
        drop(session);
    };
    let _ = tokio::join!(assembled.session.once(&mut backoff), lasting);
    assert_eq!(backoff, fresh);
    assembled.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_cannot_be_run_has_failed() {
    let mut controller = TestController::start().await;
    controller.gateway.state().hang_open = true;
    let mut machine = TestMachine::new();
    machine.disk("data", &[1; 5000]);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let snapshot = taken(&mut session).await.snapshot_id;
    let running: Vec<Attempt> = (0..256).map(|_| attempt(1)).collect();
    for attempt in &running {
        session.dispatch(*attempt, transfer(&snapshot)).await;
    }
    let refused = attempt(1);
    session.dispatch(refused, transfer(&snapshot)).await;
    let report = session.terminal_report().await;
    assert_eq!(report.attempt, Some(refused.to_wire()));
    let detail = failure(report.outcome.clone().unwrap());
    assert_eq!((detail.code.as_str(), detail.retryable), ("too_many_attempts", true));
    session.acknowledge(&report, AckResult::Recorded).await;
    // A later attempt at what runs already takes its place.
    let next = Attempt { number: 2, ..running[7] };
    session.dispatch(next, release(&snapshot)).await;
    let report = session.terminal_report().await;
    assert_eq!(report.attempt, Some(next.to_wire()));
    assert!(matches!(report.outcome, Some(Outcome::SnapshotReleased(_))), "{report:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_on_a_living_session_and_shown_from_then_on() {
    let mut controller = TestController::start().await;
    let machine = TestMachine::new();
    machine.enrol(&controller, Duration::from_secs(3));
    let key = || std::fs::read_to_string(machine.path().join("state/identity/key.pem")).unwrap();
    let old_key = key();
    let agent = machine.start(&controller);
    let (mut session, _) = controller.session().await;
    session.abandon(Vec::new(), Vec::new()).await;
    let old_serial = session.serial.clone();
    while key() == old_key {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The session is the same one still, past the end of the old certificate.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    session.send(controller_message::Kind::Ping(Ping { nonce: 5 })).await;
    while session.message().await != agent_message::Kind::Pong(holdfast_proto::v1::Pong { nonce: 5 }) {}
    drop(session);
    let (session, _) = controller.session().await;
    assert_ne!(session.serial, old_serial);
    agent.stop().await;
    // What is on disk is a whole identity: an agent starts with it.
    let agent = machine.start(&controller);
    let (again, _) = controller.session().await;
    assert_eq!(again.serial, session.serial);
    agent.stop().await;
}
