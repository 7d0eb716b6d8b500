//! Block devices: real ones, loop devices, which need root.

use std::os::unix::fs::FileExt as _;

use holdfast_proto::ids::StepId;
use holdfast_proto::v1::{AckResult, CancelStep, controller_message};

use super::*;
use crate::attempt::Attempt;
use crate::testing::loop_disk::{LoopDevice, LoopDir};

const MIB: usize = 1 << 20;
/// More than what a hung read may keep an attempt for.
const LONG: Duration = Duration::from_secs(60);

async fn taken(session: &mut TestSession) -> TransferData {
    let take = TakeSnapshot { disk_names: Vec::new(), minimum: Consistency::FileSystem.into() };
    match session.carry_out(Step::TakeSnapshot(take)).await {
        Outcome::SnapshotTaken(taken) => {
            TransferData { snapshot_id: taken.snapshot_id, gateways: Vec::new() }
        }
        other => panic!("no snapshot: {other:?}"),
    }
}

fn write(device: &Path, content: &[u8]) {
    let file = std::fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(content, 0).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_comes_back_byte_for_byte_unless_it_is_written_to() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(device) = LoopDevice::attach(&dir, "disk", 48) else { return };
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    machine.disk_at("data", device.path());
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let mut bytes = image(48 * MIB, 5);
    for changed in [0, 40] {
        change(&mut bytes, changed);
        write(device.path(), &bytes);
        must_succeed(&mut session).await;
        let restored = gateway.restore("data");
        assert_eq!(restored.len(), bytes.len());
        let different =
            restored.chunks(BLOCK).zip(bytes.chunks(BLOCK)).enumerate().filter(|(_, (a, b))| a != b);
        let different: Vec<usize> = different.map(|(block, _)| block).collect();
        assert_eq!(different, [0; 0], "blocks that differ, {changed}");
        gateway.reset_counters();
    }
    let transfer = taken(&mut session).await;
    write(device.path(), &[1; BLOCK]);
    let outcome = session.carry_out(Step::TransferData(transfer)).await;
    assert!(matches!(&outcome, Outcome::Failed(detail) if detail.code == "disk_in_use"), "{outcome:?}");
    agent.stop().await;
}

/// Dispatches it and lets it begin to read. Less than what ends an attempt whose disk does not answer.
async fn begin(session: &mut TestSession, transfer: &TransferData) -> Attempt {
    let attempt = Attempt { step: StepId::generate(), number: 1 };
    session.dispatch(attempt, Step::TransferData(transfer.clone())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    attempt
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_hangs_keeps_no_attempt() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(device) = LoopDevice::attach(&dir, "disk", 16) else { return };
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    machine.disk_at("data", device.path());
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let transfer = taken(&mut session).await;
    let Some(hanging) = device.hang() else { return };

    let attempt = begin(&mut session, &transfer).await;
    let cancel = CancelStep { attempt: Some(attempt.to_wire()) };
    session.send(controller_message::Kind::Cancel(cancel)).await;
    let report = tokio::time::timeout(LONG, session.terminal_report()).await.unwrap();
    assert_eq!(report.attempt, Some(attempt.to_wire()));
    assert!(matches!(report.outcome, Some(Outcome::Cancelled(_))), "{report:?}");
    session.acknowledge(&report, AckResult::Recorded).await;

    // Nobody cancels this one.
    let attempt = begin(&mut session, &transfer).await;
    let report = tokio::time::timeout(LONG, session.terminal_report()).await.unwrap();
    assert_eq!(report.attempt, Some(attempt.to_wire()));
    session.acknowledge(&report, AckResult::Recorded).await;
    let Some(Outcome::Failed(detail)) = report.outcome else { panic!("{report:?}") };
    assert_eq!((detail.code.as_str(), detail.retryable), ("disk_stalled", true));

    drop(hanging);
    let outcome = session.carry_out(Step::TransferData(transfer)).await;
    assert!(matches!(outcome, Outcome::TransferDone(_)), "{outcome:?}");
    agent.stop().await;
}
