//! Open ends, and who ties them up.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Code;

use holdfast_gateway::{GatewayConfig, UnsettledCommit};
use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::Outcome;

use crate::agent::Agent;
use crate::bed::{Bed, eventually};
use crate::image::{blocks, frames, noise};

const MIB: usize = 1 << 20;

async fn begun(bed: &Bed, seed: u64) -> (Agent, u64, String) {
    let image = noise(seed, MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    agent.send(frames(&open.transfer_id, "data", blocks(&image))).await;
    let [found] = bed.vault.unconcluded(agent.machine.0).await.unwrap().try_into().unwrap();
    (agent, found.seq, open.transfer_id)
}

fn unsettled(agent: &Agent, seq: u64) -> UnsettledCommit {
    UnsettledCommit { machine: agent.machine, step: agent.step, attempt: agent.attempt, seq }
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_the_catalogue_does_not_have_are_indexed() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let points = std::mem::take(&mut bed.authority.script().points);
    bed.gateway.resolve().await.unwrap();
    assert_eq!(bed.authority.script().points, points);
    let calls = bed.authority.script().record_calls;
    bed.gateway.resolve().await.unwrap();
    assert_eq!(bed.authority.script().record_calls, calls, "what is indexed is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_dead_gateway_that_did_not_happen_is_aborted() {
    let mut bed = Bed::new().await;
    let (agent, seq, _) = begun(&bed, 1).await;
    bed.restart().await;
    bed.authority.script().unsettled = vec![unsettled(&agent, seq)];
    bed.gateway.resolve().await.unwrap();
    assert_eq!(bed.authority.script().aborted, [(agent.step, 1)]);
    let outcome = bed.vault.outcome(agent.machine.0, seq).await.unwrap();
    assert!(matches!(outcome, Some(Outcome::Aborted { .. })));
    assert!(bed.authority.script().points.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_dead_gateway_that_happened_is_recorded() {
    let mut bed = Bed::new().await;
    let (agent, seq, transfer) = begun(&bed, 1).await;
    bed.authority.script().record_failures = 6;
    assert_eq!(agent.try_commit(&transfer).await.unwrap_err().code(), Code::Unavailable);
    bed.restart().await;
    bed.authority.script().unsettled = vec![unsettled(&agent, seq)];
    bed.gateway.resolve().await.unwrap();
    assert!(bed.authority.script().points.contains_key(&(agent.machine, seq)));
    assert!(bed.authority.script().aborted.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_under_way_is_waited_for() {
    let bed = Bed::new().await;
    let (agent, seq, transfer) = begun(&bed, 1).await;
    let hold = bed.authority.hold_commits();
    let commit = tokio::spawn({
        let agent = agent.clone();
        async move { agent.try_commit(&transfer).await }
    });
    hold.reached().await;
    bed.authority.script().unsettled = vec![unsettled(&agent, seq)];
    bed.gateway.resolve().await.unwrap();
    assert!(bed.authority.script().aborted.is_empty());
    hold.release();
    commit.await.unwrap().unwrap();
    assert_eq!(bed.points(agent.machine).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_whose_attempt_is_over_are_concluded_and_no_others() {
    let bed = Bed::new().await;
    let (dead, dead_seq, dead_transfer) = begun(&bed, 1).await;
    let (live, live_seq, live_transfer) = begun(&bed, 2).await;
    let mut upload = dead.upload().await;
    upload.frames.send(frames(&dead_transfer, "data", blocks(&noise(1, MIB)))[0].clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    bed.authority.step(dead.step, |step| step.running = false);
    bed.gateway.resolve().await.unwrap();
    let outcome = bed.vault.outcome(dead.machine.0, dead_seq).await.unwrap();
    assert!(matches!(outcome, Some(Outcome::Aborted { .. })));
    assert_eq!(upload.end().await.unwrap().code(), Code::Unavailable);
    assert!(bed.vault.outcome(live.machine.0, live_seq).await.unwrap().is_none());
    live.commit(&live_transfer).await;
    bed.gateway.resolve().await.unwrap();
    assert_eq!(bed.points(live.machine).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_settled_does_not_stop_the_rest() {
    let mut bed = Bed::new().await;
    let (broken, broken_seq, transfer) = begun(&bed, 1).await;
    bed.authority.script().record_failures = 6;
    assert_eq!(broken.try_commit(&transfer).await.unwrap_err().code(), Code::Unavailable);
    let (other, other_seq, _) = begun(&bed, 2).await;
    bed.restart().await;
    let folder = bed.root().join(format!("points/{}", broken.machine));
    let object = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    bed.authority.script().unsettled = vec![unsettled(&broken, broken_seq), unsettled(&other, other_seq)];
    bed.gateway.resolve().await.unwrap();
    let mut aborted = bed.authority.script().aborted.clone();
    aborted.sort_unstable();
    let mut expected = vec![(broken.step, 1), (other.step, 1)];
    expected.sort_unstable();
    assert_eq!(aborted, expected, "a point that cannot be read is none");
    assert!(bed.authority.script().points.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_by_itself_and_ends_streams_when_the_gateway_stops() {
    let config = GatewayConfig { resolve_period: Duration::from_millis(50), ..GatewayConfig::default() };
    let bed = Bed::with(config).await;
    let token = CancellationToken::new();
    let running = tokio::spawn(bed.gateway.clone().run(token.clone()));
    let (dead, seq, _) = begun(&bed, 1).await;
    bed.authority.step(dead.step, |step| step.running = false);
    eventually("a dead backup is concluded", async || {
        bed.vault.outcome(dead.machine.0, seq).await.unwrap().is_some()
    })
    .await;
    let (live, _, transfer) = begun(&bed, 2).await;
    let mut bound = live.upload().await;
    bound.frames.send(frames(&transfer, "data", blocks(&noise(2, MIB)))[0].clone()).await.unwrap();
    let mut unbound = live.upload().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    token.cancel();
    running.await.unwrap();
    assert_eq!(bound.end().await.unwrap().code(), Code::Unavailable);
    assert_eq!(unbound.end().await.unwrap().code(), Code::Unavailable);
    assert_eq!(live.try_open().await.unwrap_err().code(), Code::Unavailable);
    assert_ne!(live.machine, MachineId(dead.machine.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_was_writing_goes_when_the_next_one_starts() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let [seq] = bed.vault.point_seqs(agent.machine.0).await.unwrap().try_into().unwrap();
    let left = bed.root().join(format!("seg/{}/{seq:020}/00000009.0#1", agent.machine));
    std::fs::write(&left, b"half a segment").unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    std::fs::File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
    let token = CancellationToken::new();
    let running = tokio::spawn(bed.gateway.clone().run(token.clone()));
    eventually("the file is gone", async || !left.try_exists().unwrap()).await;
    token.cancel();
    running.await.unwrap();
    assert_eq!(bed.points(agent.machine).await, 1);
}
