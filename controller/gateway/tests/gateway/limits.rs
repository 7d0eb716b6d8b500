//! Memory is bounded, and silence is no crime.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Code;

use holdfast_gateway::GatewayConfig;
use holdfast_proto::error::detail_of;

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
    let running = tokio::spawn(bed.gateway.clone().run_resolver(token.clone()));
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

    // Its attempt is over now: it is forgotten, and found again in the vault.
    eventually("the transfer is forgotten", async || agent.try_commit(&open.transfer_id).await.is_err())
        .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_streams_and_restores_and_no_more() {
    let config = GatewayConfig { max_streams: 1, max_restores: 1, ..GatewayConfig::default() };
    let bed = Bed::with(config).await;
    let image = noise(1, 40 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let agent = bed.next(&agent, &[("data", &image)]);
    agent.open().await;
    let upload = agent.upload().await;
    assert_eq!(agent.try_send(Vec::new()).await.unwrap_err().code(), Code::Unavailable);
    drop(upload);
    eventually("the place of a stream is free again", async || agent.try_send(Vec::new()).await.is_ok())
        .await;

    let reading = read(&bed, "admin", "web1@latest", "data").await.unwrap();
    assert_eq!(read(&bed, "admin", "web1@latest", "data").await.unwrap_err().code(), Code::Unavailable);
    drop(reading);
    eventually("the place of a restore is free again", async || {
        read(&bed, "admin", "web1@latest", "data").await.is_ok()
    })
    .await;
}
