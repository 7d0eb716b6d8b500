mod devices;
mod state;

use std::path::Path;
use std::time::Duration;

use holdfast_proto::error::{ErrorDetailExt as _, system_error};
use holdfast_proto::v1::{
    Consistency, MapLayer, ReleaseSnapshot, TakeSnapshot, TransferData, dispatch::Step, step_report::Outcome,
};
use tonic::Code;

use crate::testing::agent::TestMachine;
use crate::testing::controller::{TestController, TestSession};

const BLOCK: usize = 4096;

/// Blocks of zeros, of noise, and of text that compresses; the same for the same seed.
fn image(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(size + BLOCK);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match state >> 61 {
            0..3 => bytes.extend([0; BLOCK]),
            3..6 => bytes.extend(format!("{state:x} is a line of text\n").bytes().cycle().take(BLOCK)),
            _ => bytes.extend(
                (0..BLOCK as u64 / 8).flat_map(|n| (n ^ state).wrapping_mul(state | 1).to_le_bytes()),
            ),
        }
    }
    bytes.truncate(size);
    bytes
}

/// Changes so many single blocks, spread over the disk.
fn change(bytes: &mut [u8], count: usize) {
    let blocks = bytes.len() / BLOCK;
    for index in 0..count {
        bytes[(index * blocks / count) * BLOCK + 17] ^= 0xff;
    }
}

/// A whole backup: snapshot, transfer, release. Returns how the transfer ended.
async fn backup(session: &mut TestSession) -> Outcome {
    let take = TakeSnapshot { disk_names: Vec::new(), minimum: Consistency::Crash.into() };
    let Outcome::SnapshotTaken(taken) = session.carry_out(Step::TakeSnapshot(take)).await else { panic!() };
    let snapshot_id = taken.snapshot_id;
    let transfer = TransferData { snapshot_id: snapshot_id.clone(), gateways: Vec::new() };
    let outcome = session.carry_out(Step::TransferData(transfer)).await;
    session.carry_out(Step::ReleaseSnapshot(ReleaseSnapshot { snapshot_id })).await;
    outcome
}

async fn must_succeed(session: &mut TestSession) {
    let outcome = backup(session).await;
    assert!(matches!(&outcome, Outcome::TransferDone(done) if !done.point_id.is_empty()), "{outcome:?}");
}

fn rewrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn full_incremental_unchanged_grown_and_shrunk_disks_come_back_byte_for_byte() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    let (mut a, b) = (image((20 << 20) + 1234, 1), image(3 * BLOCK, 2));
    let path = machine.disk("a", &a);
    machine.disk("b", &b);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;

    must_succeed(&mut session).await;
    assert!(gateway.restore("a") == a && gateway.restore("b") == b);
    assert!(gateway.state().map_reads.is_empty());
    assert!(gateway.state().read_bytes[0] <= a.len() as u64);

    gateway.reset_counters();
    change(&mut a, 300);
    a[5 * BLOCK..6 * BLOCK].fill(0);
    rewrite(&path, &a);
    must_succeed(&mut session).await;
    assert!(gateway.restore("a") == a);
    let received = gateway.state().blocks_received;
    assert!((300..=301).contains(&received), "{received} blocks were sent for 300 changed ones");
    assert!(gateway.state().map_reads.is_empty(), "the local map was not used");

    gateway.reset_counters();
    must_succeed(&mut session).await;
    assert!(gateway.restore("a") == a);
    assert_eq!(gateway.state().blocks_received, 0);

    gateway.reset_counters();
    a.extend(image((2 << 20) + 99, 3));
    rewrite(&path, &a);
    must_succeed(&mut session).await;
    assert!(gateway.restore("a") == a);

    gateway.reset_counters();
    a.truncate((9 << 20) + 7);
    rewrite(&path, &a);
    must_succeed(&mut session).await;
    assert!(gateway.restore("a") == a);
    assert!(gateway.state().blocks_received <= 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_lost_connections_only_the_rest_is_sent() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    let mut bytes = image((40 << 20) + 5, 7);
    let path = machine.disk("data", &bytes);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let blocks = bytes.len().div_ceil(BLOCK);

    gateway.state().break_after = Some(6);
    must_succeed(&mut session).await;
    assert!(gateway.restore("data") == bytes);
    assert_eq!(gateway.state().blocks_received, blocks, "what was acknowledged was sent again");
    assert_eq!(gateway.state().opens, 2);
    assert_eq!(gateway.state().map_reads, [MapLayer::Overlay]);

    // Incremental, with the local map below what was received.
    gateway.reset_counters();
    change(&mut bytes, 4000);
    rewrite(&path, &bytes);
    gateway.state().break_after = Some(2);
    must_succeed(&mut session).await;
    assert!(gateway.restore("data") == bytes);
    assert_eq!(gateway.state().blocks_received, 4000);
    assert_eq!(gateway.state().map_reads, [MapLayer::Overlay]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_missing_or_damaged_is_fetched() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    let mut bytes = image(6 << 20, 4);
    let path = machine.disk("data", &bytes);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    must_succeed(&mut session).await;
    let map = machine.path().join("state/maps/data.map");

    for damage in [true, false] {
        gateway.reset_counters();
        let mut content = std::fs::read(&map).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        if damage {
            rewrite(&map, &content)
        } else {
            std::fs::remove_file(&map).unwrap()
        }
        change(&mut bytes, 100);
        rewrite(&path, &bytes);
        must_succeed(&mut session).await;
        assert!(gateway.restore("data") == bytes);
        assert!(gateway.state().blocks_received <= 100);
        assert_eq!(gateway.state().map_reads.len(), 1);
        assert!(map.try_exists().unwrap());
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_has_nothing_to_send_for_long_stays_alive() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    machine.disk("data", &image(1 << 20, 4));
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    must_succeed(&mut session).await;
    std::fs::remove_file(machine.path().join("state/maps/data.map")).unwrap();
    gateway.reset_counters();
    gateway.state().map_delay = Duration::from_millis(900);
    must_succeed(&mut session).await;
    assert!(
        gateway.state().empty_frames >= 4,
        "two streams showed {} times that they live",
        gateway.state().empty_frames
    );
    assert_eq!(gateway.state().blocks_received, 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_begins_with_the_outage_and_comes_to_its_end() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    machine.timing = "transfer_patience = \"1s\"".to_owned();
    machine.disk("data", &image(1 << 20, 4));
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    must_succeed(&mut session).await;

    // A pass that is longer than that, of a disk of which nothing has to be sent, and then the gateway goes.
    std::fs::remove_file(machine.path().join("state/maps/data.map")).unwrap();
    gateway.reset_counters();
    gateway.state().map_delay = Duration::from_millis(1500);
    gateway.state().lose_commit_answer = true;
    must_succeed(&mut session).await;
    assert_eq!(gateway.state().opens, 2);
    assert_eq!(gateway.state().blocks_received, 0);

    gateway.reset_counters();
    gateway.state().refuse_open = Some(tonic::Status::unavailable("the gateway stops"));
    let began = std::time::Instant::now();
    let outcome = backup(&mut session).await;
    assert!(matches!(&outcome, Outcome::Failed(detail) if detail.retryable), "{outcome:?}");
    let opens = gateway.state().opens;
    assert!(began.elapsed() < Duration::from_secs(5) && opens > 2, "{opens} in {:?}", began.elapsed());

    // What opens and scans and never commits is no success for ever.
    gateway.reset_counters();
    gateway.state().refuse_open = None;
    gateway.state().map_delay = Duration::ZERO;
    gateway.state().refuse_commit = Some(tonic::Status::unavailable("the gateway stops"));
    let outcome = backup(&mut session).await;
    assert!(matches!(&outcome, Outcome::Failed(detail) if detail.retryable), "{outcome:?}");
    let opens = gateway.state().opens;
    assert!(opens > 2, "{opens}");
    agent.stop().await;
}

/// Each scan stands still on a thread of its own until its map comes: one after the other they would take 8 s.
#[tokio::test(flavor = "multi_thread")]
async fn disks_are_scanned_at_the_same_time() {
    const DISKS: usize = 8;
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    for disk in 0..DISKS {
        machine.disk(&format!("disk{disk}"), &image(1 << 20, 4 + disk as u64));
    }
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    must_succeed(&mut session).await;
    for disk in 0..DISKS {
        std::fs::remove_file(machine.path().join(format!("state/maps/disk{disk}.map"))).unwrap();
    }
    gateway.reset_counters();
    gateway.state().map_delay = Duration::from_secs(1);
    let began = std::time::Instant::now();
    must_succeed(&mut session).await;
    let elapsed = began.elapsed();
    assert_eq!(gateway.state().map_reads.len(), DISKS);
    assert!(elapsed < Duration::from_secs(5), "{DISKS} disks took {elapsed:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_again() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    let bytes = image(1 << 20, 4);
    machine.disk("data", &bytes);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    gateway.state().lose_commit_answer = true;
    must_succeed(&mut session).await;
    assert!(gateway.restore("data") == bytes);
    // Its map id is unknown, so no map is in force; the next backup fetches it.
    gateway.reset_counters();
    must_succeed(&mut session).await;
    assert_eq!(gateway.state().map_reads, [MapLayer::Merged]);
    assert_eq!(gateway.state().blocks_received, 0);
    assert_eq!(std::fs::read_dir(machine.path().join("state/maps")).unwrap().count(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_last_word_ends_the_attempt_and_reaches_the_operator() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    machine.disk("data", &image(1 << 20, 4));
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    for (code, status) in [
        ("vault_full", system_error("vault_full", "the vault is full").into_status(Code::ResourceExhausted)),
        ("failed_precondition", tonic::Status::failed_precondition("stale")),
    ] {
        gateway.state().refuse_open = Some(status);
        let outcome = backup(&mut session).await;
        assert!(matches!(&outcome, Outcome::Failed(detail) if detail.code == code), "{outcome:?}");
    }
    gateway.state().refuse_open = None;
    must_succeed(&mut session).await;
    assert_eq!(gateway.state().opens, 3, "a refusal was tried again");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_during_the_transfer_fails_it_and_is_let_go() {
    let mut controller = TestController::start().await;
    controller.gateway.state().hang_open = true;
    let mut machine = TestMachine::new();
    let path = machine.disk("data", &image(1 << 20, 4));
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        let began = std::time::Instant::now();
        std::fs::File::options().write(true).open(path).unwrap();
        began.elapsed()
    });
    let take = TakeSnapshot { disk_names: Vec::new(), minimum: Consistency::Crash.into() };
    let Outcome::SnapshotTaken(taken) = session.carry_out(Step::TakeSnapshot(take)).await else { panic!() };
    let waited = tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
    assert!(waited < Duration::from_secs(10), "the writer waited {waited:?}");
    let transfer = TransferData { snapshot_id: taken.snapshot_id, gateways: Vec::new() };
    let outcome = session.carry_out(Step::TransferData(transfer)).await;
    assert!(matches!(&outcome, Outcome::Failed(detail) if detail.code == "disk_in_use"), "{outcome:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_goes_to_no_host_that_the_owner_did_not_name() {
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    machine.disk("data", &image(1 << 20, 4));
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    let take = TakeSnapshot { disk_names: Vec::new(), minimum: Consistency::Crash.into() };
    let Outcome::SnapshotTaken(taken) = session.carry_out(Step::TakeSnapshot(take)).await else { panic!() };
    let mut transfer =
        TransferData { snapshot_id: taken.snapshot_id, gateways: vec!["evil.example:1".to_owned()] };
    let outcome = session.carry_out(Step::TransferData(transfer.clone())).await;
    assert!(
        matches!(&outcome, Outcome::Failed(detail) if detail.code == "gateway_not_allowed"),
        "{outcome:?}"
    );
    // The first one does not answer; the second one is asked then.
    transfer.gateways = vec!["127.0.0.1:1".to_owned(), controller.address.to_string()];
    let outcome = session.carry_out(Step::TransferData(transfer)).await;
    assert!(matches!(outcome, Outcome::TransferDone(_)), "{outcome:?}");
    agent.stop().await;
}
