//! Memory is bounded, and silence is no crime.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Code;

use holdfast_gateway::GatewayConfig;
use holdfast_proto::error::detail_of;
use holdfast_proto::v1::{MapLayer, ReadBlockMapRequest};

use crate::bed::{Bed, eventually};
use crate::image::{blocks, frames, noise};
use crate::operator::read;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_transfer_lives_as_long_as_its_attempt() {
    let config = GatewayConfig {
        resolve_period: Duration::from_millis(30),
        idle_timeout: Duration::from_millis(60),
        ..GatewayConfig::default()
    };
    let bed = Bed::with(config).await;
    let token = CancellationToken::new();
    let running = tokio::spawn(bed.gateway.clone().run(token.clone()));
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    let mut upload = agent.upload().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let all = frames(&open.transfer_id, "data", blocks(&image));
    upload.frames.send(all[0].clone()).await.unwrap();
    drop(upload.frames);
    assert_eq!(upload.acks.message().await.unwrap().unwrap().frames, [1]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    agent.commit(&open.transfer_id).await;

    // Its attempt is over now: it is forgotten, and found again in the vault. Whoever asks too often keeps it.
    let mut silence = Duration::from_millis(50);
    while agent.try_commit(&open.transfer_id).await.is_ok() {
        assert!(silence < Duration::from_secs(20), "the transfer is not forgotten");
        silence *= 2;
        tokio::time::sleep(silence).await;
    }
    assert!(!agent.open().await.committed_point_id.is_empty());
    token.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_transfers_and_no_more() {
    let bed = Bed::with(GatewayConfig { max_transfers: 1, ..GatewayConfig::default() }).await;
    let image = noise(1, MIB);
    let (one, two) = (bed.agent(&[("data", &image)]), bed.agent(&[("data", &image)]));
    one.open().await;
    let status = two.try_open().await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::Unavailable, "gateway_busy"));
    assert!(detail_of(&status).retryable);
    // Its own machine's transfer is no hindrance, and a committed one gives way.
    one.back_up(&[("data", &image)]).await;
    two.back_up(&[("data", &image)]).await;
}

/// However many streams it opens and says nothing on, an agent takes no place of another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_has_so_many_streams_and_no_more() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let (one, two) = (bed.agent(&[("data", &image)]), bed.agent(&[("data", &image)]));
    let none = one.try_send(Vec::new()).await.unwrap_err();
    assert_eq!(detail_of(&none).code, "transfer_closed", "no transfer, no stream");
    one.open().await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(one.upload().await);
    }
    let status = one.try_send(Vec::new()).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::Unavailable, "gateway_busy"));
    two.back_up(&[("data", &image)]).await;
    drop(silent.pop());
    eventually("the place of a stream is free again", async || one.try_send(Vec::new()).await.is_ok()).await;
    // Whoever lost its connection does not wait for what is left of it.
    one.back_up(&[("data", &image)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_has_so_many_block_maps_and_no_more() {
    let bed = Bed::new().await;
    let image = noise(1, 64 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    // Its windows hold less than a map.
    let narrow = bed.endpoint().initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let agent = bed.next(&agent, &[("data", &image)]).over(narrow.connect_lazy());
    let open = agent.open().await;
    let read = async || {
        let request = ReadBlockMapRequest {
            transfer_id: open.transfer_id.clone(),
            disk_name: "data".to_owned(),
            layer: MapLayer::Merged.into(),
        };
        agent.client.clone().read_block_map(agent.request(request)).await
    };
    // What the connection's window takes needs no place any more.
    let (mut unread, mut refused) = (Vec::new(), None);
    for _ in 0..48 {
        match read().await {
            Ok(map) => unread.push(map),
            Err(status) => refused = Some(status),
        }
    }
    assert_eq!(detail_of(&refused.unwrap()).code, "gateway_busy");
    assert!((32..40).contains(&unread.len()), "{}", unread.len());
    drop(unread);
    eventually("the place of a map is free again", async || read().await.is_ok()).await;
}

/// A client that asks again and again while the first answer is not there makes no work that outlives its calls.
#[tokio::test(flavor = "multi_thread")]
async fn opens_of_one_agent_do_not_pile_up() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    agent.send(frames(&open.transfer_id, "data", blocks(&image))).await;
    let hold = bed.authority.hold_commits();
    let committing = tokio::spawn({
        let (agent, transfer) = (agent.clone(), open.transfer_id.clone());
        async move { agent.try_commit(&transfer).await }
    });
    hold.reached().await;
    let before = bed.authority.script().authorise_calls;
    // They wait for the commit.
    let opens: Vec<_> = (0..20)
        .map(|_| {
            let agent = agent.clone();
            tokio::spawn(async move { agent.try_open().await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bed.authority.script().authorise_calls, before + 1);
    for open in opens {
        open.abort();
    }
    hold.release();
    let point = committing.await.unwrap().unwrap().point_id;
    assert_eq!(agent.open().await.committed_point_id, point);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_restores_and_no_more() {
    let config =
        GatewayConfig { max_restores: 1, read_timeout: Duration::from_secs(1), ..GatewayConfig::default() };
    let bed = Bed::with(config).await;
    let image = noise(1, 40 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let reading = read(&bed, "admin", "web1@latest", "data").await.unwrap();
    assert_eq!(read(&bed, "admin", "web1@latest", "data").await.unwrap_err().code(), Code::Unavailable);
    drop(reading);
    let mut hanging = None;
    eventually("the place of a restore is free again", async || {
        hanging = read(&bed, "admin", "web1@latest", "data").await.ok();
        hanging.is_some()
    })
    .await;
    // Whoever answers pings and reads nothing loses its place as well.
    eventually("the place of a restore that hangs is free", async || {
        read(&bed, "admin", "web1@latest", "data").await.is_ok()
    })
    .await;
    drop(hanging);
}
