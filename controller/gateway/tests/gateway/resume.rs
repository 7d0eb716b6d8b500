//! Lost connections, and gateways that die in the middle.

use std::time::Duration;

use tonic::Code;

use holdfast_proto::v1::MapLayer;

use crate::bed::Bed;
use crate::image::{blocks, frames, hashes, noise, payload};
use crate::operator::restore;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_kept_and_not_asked_for_again() {
    let mut bed = Bed::new().await;
    let image = noise(1, 12 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    let first = frames(&open.transfer_id, "data", blocks(&image[..4 * MIB]));
    agent.send(first.clone()).await;

    // The connection is lost.
    let open = agent.open().await;
    let key = open.disks[0].block_hash_key.clone();
    assert!(open.disks[0].has_overlay);
    let overlay = agent.map(&open.transfer_id, "data", MapLayer::Overlay).await;
    assert_eq!(overlay, hashes(&key, &image[..4 * MIB]));
    let all = agent.changed(&open, "data", &image).await;
    let second = all[..4].to_vec();
    agent.send(second.clone()).await;

    // The gateway dies.
    bed.restart().await;
    let agent = agent.over(bed.channel());
    let open = agent.open().await;
    assert_eq!(open.disks[0].block_hash_key, key);
    let overlay = agent.map(&open.transfer_id, "data", MapLayer::Overlay).await;
    assert_eq!(overlay, hashes(&key, &image[..8 * MIB]));
    let third = agent.changed(&open, "data", &image).await;
    agent.send(third.clone()).await;
    assert_eq!([first.len(), second.len(), third.len()], [4, 4, 4]);
    assert_eq!(payload(&first) + payload(&second) + payload(&third), 12 * MIB as u64);

    let answer = agent.commit(&open.transfer_id).await;
    assert!(restore(&bed, &answer.point_id, "data").await.unwrap().bytes == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_again_ends_older_streams_and_keeps_what_they_brought() {
    let bed = Bed::new().await;
    let image = noise(1, 4 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    let all = frames(&open.transfer_id, "data", blocks(&image));
    let mut upload = agent.upload().await;
    upload.frames.send(all[0].clone()).await.unwrap();
    upload.frames.send(all[1].clone()).await.unwrap();
    // Not acknowledged: their segment is open. Frames that the gateway has not read yet may be lost; the first two it has
    // when a third one is through.
    let mut other = agent.upload().await;
    other.frames.send(all[2].clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;

    let again = agent.open().await;
    assert_ne!(again.transfer_id, open.transfer_id);
    assert_eq!(upload.end().await.unwrap().code(), Code::Unavailable);
    assert_eq!(other.end().await.unwrap().code(), Code::Unavailable);
    let overlay = agent.map(&again.transfer_id, "data", MapLayer::Overlay).await;
    assert_eq!(overlay, hashes(&again.disks[0].block_hash_key, &image[..3 * MIB]));

    // The old id is good for nothing any more.
    let old = &open.transfer_id;
    assert_eq!(agent.try_map(old, "data", MapLayer::Overlay).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(agent.try_send(all[3..].to_vec()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(agent.try_commit(old).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(bed.points(agent.machine).await, 0);

    let rest = agent.changed(&again, "data", &image).await;
    assert_eq!(rest.len(), 1);
    agent.send(rest).await;
    let answer = agent.commit(&again.transfer_id).await;
    assert!(restore(&bed, &answer.point_id, "data").await.unwrap().bytes == image);
}

/// An agent dies while the frame that fills a segment is being decoded. What the maps then show as received must be there
/// at the commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_takes_no_segment_with_it() {
    let bed = Bed::new().await;
    let mut image = noise(1, 34 * MIB);
    image[..131_072].fill(7);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    let all = frames(&open.transfer_id, "data", blocks(&image));
    // Decoding the first cell a thousand times takes a while; only after that the segment is full.
    let mut slow = all[32].clone();
    slow.cells.splice(0..0, std::iter::repeat_n(all[0].cells[0].clone(), 1000));

    // With its runtime the sockets go, as those of a killed process do.
    let process = tokio::runtime::Runtime::new().unwrap();
    let (sent, all_sent) = tokio::sync::oneshot::channel();
    let (doomed, endpoint) = (agent.clone(), bed.endpoint());
    process.spawn(async move {
        let upload = doomed.over(endpoint.connect_lazy()).upload().await;
        for frame in &all[..32] {
            upload.frames.send(frame.clone()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        upload.frames.send(slow).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        sent.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    all_sent.await.unwrap();
    process.shutdown_background();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let answer = agent.back_up(&[("data", &image)]).await;
    assert!(restore(&bed, &answer.point_id, "data").await.unwrap().bytes == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_attempt_takes_over_what_is_durable() {
    let bed = Bed::new().await;
    let image = noise(1, 4 * MIB);
    let mut agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    agent.send(frames(&open.transfer_id, "data", blocks(&image[..2 * MIB]))).await;
    bed.authority.step(agent.step, |step| step.attempt = 2);
    agent.attempt = 2;
    let open = agent.open().await;
    let rest = agent.changed(&open, "data", &image).await;
    assert_eq!(payload(&rest), 2 * MIB as u64);
    agent.send(rest).await;
    let answer = agent.commit(&open.transfer_id).await;
    assert!(restore(&bed, &answer.point_id, "data").await.unwrap().bytes == image);
}
