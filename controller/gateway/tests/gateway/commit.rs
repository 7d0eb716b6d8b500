//! From the last frame to the point.

use std::time::Duration;

use tonic::Code;

use holdfast_proto::error::detail_of;

use crate::agent::Agent;
use crate::bed::{Bed, eventually};
use crate::image::{blocks, frames, noise};
use crate::operator::restore;

const MIB: usize = 1 << 20;

/// A transfer that only has to be committed.
async fn sent(bed: &Bed, image: &[u8]) -> (Agent, String) {
    let agent = bed.agent(&[("data", image)]);
    let open = agent.open().await;
    agent.send(frames(&open.transfer_id, "data", blocks(image))).await;
    (agent, open.transfer_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_it_is_asked_for_there_is_one_point() {
    let mut bed = Bed::new().await;
    let (agent, transfer) = sent(&bed, &noise(1, MIB)).await;
    let (first, second) = tokio::join!(agent.commit(&transfer), agent.commit(&transfer));
    assert_eq!(first, second);
    assert_eq!(agent.commit(&transfer).await, first);
    assert_eq!(agent.open().await.committed_point_id, first.point_id);
    bed.restart().await;
    let agent = agent.over(bed.channel());
    assert_eq!(agent.try_commit(&transfer).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(agent.open().await.committed_point_id, first.point_id);
    assert_eq!(bed.points(agent.machine).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_gets_no_point() {
    let bed = Bed::new().await;
    let (agent, transfer) = sent(&bed, &noise(1, MIB)).await;
    bed.authority.step(agent.step, |step| step.cancelled = true);
    let status = agent.try_commit(&transfer).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::FailedPrecondition, "cancelled"));
    assert_eq!(bed.points(agent.machine).await, 0);
    assert!(bed.authority.script().points.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_stops_nothing() {
    let bed = Bed::new().await;
    let (agent, transfer) = sent(&bed, &noise(1, MIB)).await;
    let hold = bed.authority.hold_commits();
    let commit = tokio::spawn({
        let (agent, transfer) = (agent.over(bed.channel()), transfer.clone());
        async move { agent.try_commit(&transfer).await }
    });
    hold.reached().await;
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());
    // Time for the cancellation to reach the server.
    tokio::time::sleep(Duration::from_millis(200)).await;
    hold.release();
    eventually("the point is indexed", async || !bed.authority.script().points.is_empty()).await;
    let id = agent.commit(&transfer).await.point_id;
    assert_eq!(bed.authority.script().points.values().next().unwrap().id.to_string(), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_absence_of_the_control_plane_is_waited_out() {
    let bed = Bed::new().await;
    let (agent, transfer) = sent(&bed, &noise(1, MIB)).await;
    {
        let mut script = bed.authority.script();
        (script.begin_failures, script.record_failures) = (2, 2);
    }
    agent.commit(&transfer).await;
    assert_eq!(bed.authority.script().record_calls, 3);
    assert_eq!(bed.authority.script().points.len(), 1);
}

/// The point is there, and somebody else indexes it before the agent asks again: `begin_commit` would be refused now.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_absence_is_left_to_the_resolver() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let (agent, transfer) = sent(&bed, &image).await;
    bed.authority.script().record_failures = 6;
    let status = agent.try_commit(&transfer).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(bed.authority.script().points.is_empty());
    assert_eq!(bed.points(agent.machine).await, 1);
    bed.gateway.resolve().await.unwrap();
    let id = bed.authority.script().points.values().next().unwrap().id.to_string();
    assert!(!bed.authority.script().steps[&agent.step].running);
    assert_eq!(agent.commit(&transfer).await.point_id, id);
    assert_eq!(agent.open().await.committed_point_id, id);
    assert!(restore(&bed, &id, "data").await.unwrap().bytes == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_was_never_indexed_is_indexed_when_its_transfer_is_opened() {
    let mut bed = Bed::new().await;
    let (agent, transfer) = sent(&bed, &noise(1, MIB)).await;
    bed.authority.script().record_failures = 6;
    assert_eq!(agent.try_commit(&transfer).await.unwrap_err().code(), Code::Unavailable);
    bed.restart().await;
    let open = agent.over(bed.channel()).open().await;
    assert_eq!(
        bed.authority.script().points.values().next().unwrap().id.to_string(),
        open.committed_point_id
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_with_a_hole_is_no_point() {
    let bed = Bed::new().await;
    let image = noise(1, 2 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    agent.send(frames(&open.transfer_id, "data", blocks(&image[..MIB]))).await;
    let status = agent.try_commit(&open.transfer_id).await.unwrap_err();
    assert_eq!(
        (status.code(), detail_of(&status).code.as_str()),
        (Code::InvalidArgument, "transfer_incomplete")
    );
    assert_eq!(bed.points(agent.machine).await, 0);
    // Another pass heals it.
    agent.back_up(&[("data", &image)]).await;
    assert_eq!(bed.points(agent.machine).await, 1);
}

/// What is not decided in its time anybody may decide: the agent does not wait for it, and finds out by beginning afresh.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_takes_no_longer_than_its_lease() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let (agent, transfer) = sent(&bed, &image).await;
    bed.authority.script().commit_lease = Some(Duration::ZERO);
    let status = agent.try_commit(&transfer).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::Unavailable, "vault_unavailable"));
    assert_eq!(agent.try_commit(&transfer).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(bed.authority.script().begin_calls, 1, "it is not open any more");
    bed.authority.script().commit_lease = None;
    // The write that was given up may have come through.
    let open = agent.open().await;
    if open.committed_point_id.is_empty() {
        assert!(agent.changed(&open, "data", &image).await.is_empty(), "what was sent is kept");
        agent.commit(&open.transfer_id).await;
    }
    assert_eq!(bed.points(agent.machine).await, 1);
    assert_eq!(bed.authority.script().points.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waited_for_another_one_does_nothing_for_a_transfer_that_was_replaced() {
    let bed = Bed::new().await;
    let (agent, transfer) = sent(&bed, &noise(1, MIB)).await;
    let hold = bed.authority.hold_commits();
    let commit = || {
        let (agent, transfer) = (agent.clone(), transfer.clone());
        tokio::spawn(async move { agent.try_commit(&transfer).await })
    };
    let first = commit();
    hold.reached().await;
    let second = commit();
    tokio::time::sleep(Duration::from_millis(200)).await;
    bed.authority.step(agent.step, |step| step.attempt = 2);
    let next = Agent { attempt: 2, ..agent.clone() };
    next.open().await;
    hold.release();
    assert_eq!(detail_of(&first.await.unwrap().unwrap_err()).code, "transfer_superseded");
    assert_eq!(detail_of(&second.await.unwrap().unwrap_err()).code, "transfer_closed");
    assert_eq!(bed.authority.script().begin_calls, 1);
    assert_eq!(bed.points(agent.machine).await, 0);
}

/// A gateway that was paused between the control plane's word and the vault's.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_is_refused() {
    let bed = Bed::new().await;
    let (agent, transfer) = sent(&bed, &noise(1, MIB)).await;
    let hold = bed.authority.hold_commits();
    let commit = tokio::spawn({
        let (agent, transfer) = (agent.clone(), transfer.clone());
        async move { agent.try_commit(&transfer).await }
    });
    hold.reached().await;
    let seq = bed.authority.script().steps[&agent.step].committing.unwrap();
    bed.vault.conclude(agent.machine.0, seq, "the gateway seems dead").await.unwrap();
    hold.release();
    let status = commit.await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), detail_of(&status).code.as_str()),
        (Code::FailedPrecondition, "transfer_superseded")
    );
    assert_eq!(bed.points(agent.machine).await, 0);
    assert!(bed.authority.script().points.is_empty());
}
