//! Who may not.

use tonic::{Code, Status};

use holdfast_proto::error::detail_of;
use holdfast_proto::ids::{AgentId, SnapshotId};
use holdfast_proto::v1::MapLayer;

use crate::agent::Agent;
use crate::bed::Bed;
use crate::image::{blocks, frames, noise};

const MIB: usize = 1 << 20;

fn refusal(status: &Status) -> (Code, String) {
    (status.code(), detail_of(status).code)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_is_refused_everywhere() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    let all = frames(&open.transfer_id, "data", blocks(&image));
    let foreign = Agent { id: AgentId::generate(), ..agent.clone() };
    let transfer = &open.transfer_id;
    // Without a transfer of its own it does not even get as far as to name one.
    assert_eq!(foreign.try_send(all.clone()).await.unwrap_err().code(), Code::Unavailable);
    let other = bed.agent(&[("data", &image)]);
    other.open().await;
    for status in [
        foreign.try_open().await.unwrap_err(),
        foreign.try_map(transfer, "data", MapLayer::Merged).await.unwrap_err(),
        other.try_send(all.clone()).await.unwrap_err(),
        foreign.try_commit(transfer).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.metadata().contains_key("holdfast-error-bin"));
    }
    let nobody =
        agent.client.clone().commit_transfer(holdfast_proto::v1::CommitTransferRequest::default()).await;
    assert_eq!(nobody.unwrap_err().code(), Code::Unauthenticated);
    // Nothing of it counts.
    assert!(!agent.open().await.disks[0].has_overlay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_attempt_is_refused_and_its_streams_end() {
    let bed = Bed::new().await;
    let image = noise(1, 2 * MIB);
    let old = bed.agent(&[("data", &image)]);
    let open = old.open().await;
    let all = frames(&open.transfer_id, "data", blocks(&image));
    let mut upload = old.upload().await;
    upload.frames.send(all[0].clone()).await.unwrap();

    bed.authority.step(old.step, |step| step.attempt = 2);
    assert_eq!(
        refusal(&old.try_open().await.unwrap_err()),
        (Code::FailedPrecondition, "stale_attempt".to_owned())
    );
    let new = Agent { attempt: 2, ..old.clone() };
    let again = new.open().await;
    assert_eq!(upload.end().await.unwrap().code(), Code::Unavailable);
    assert_eq!(old.try_commit(&open.transfer_id).await.unwrap_err().code(), Code::Unavailable);
    // Not even with the new attempt's transfer.
    assert_eq!(old.try_commit(&again.transfer_id).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(bed.points(old.machine).await, 0);
    new.back_up(&[("data", &image)]).await;
    assert_eq!(bed.points(old.machine).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_authorised_again() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    agent.send(frames(&open.transfer_id, "data", blocks(&image))).await;
    bed.authority.step(agent.step, |step| step.attempt = 2);
    let status = agent.try_commit(&open.transfer_id).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::FailedPrecondition, "stale_attempt".to_owned()));
    assert_eq!(bed.points(agent.machine).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_snapshot_or_other_disks_are_refused() {
    let bed = Bed::new().await;
    let (one, two) = (noise(1, MIB), noise(2, MIB));
    let agent = bed.agent(&[("one", &one), ("two", &two)]);
    let mut wrong = vec![Agent { snapshot: SnapshotId::generate(), ..agent.clone() }];
    for change in [
        |agent: &mut Agent| agent.disks.truncate(1),
        |agent: &mut Agent| agent.disks[0].size_bytes += 1,
        |agent: &mut Agent| agent.disks[0].name = "three".to_owned(),
        |agent: &mut Agent| agent.disks[0] = agent.disks[1].clone(),
    ] {
        let mut changed = agent.clone();
        change(&mut changed);
        wrong.push(changed);
    }
    for agent in wrong {
        let status = agent.try_open().await.unwrap_err();
        assert_eq!(refusal(&status), (Code::InvalidArgument, "invalid_transfer".to_owned()));
    }
}
