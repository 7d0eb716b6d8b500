//! One upload stream: takes frames from the queue that all streams share, and counts what the gateway acknowledges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_proto::v1::FrameAck;
use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::compress::EncodedFrame;
use super::error::TransferError;
use super::meter::Meter;
use crate::crash_point::crash_point;

const WHAT: &str = "send cells";

/// Frames that wait for a stream.
pub(super) type FrameQueue = Arc<tokio::sync::Mutex<mpsc::Receiver<EncodedFrame>>>;

/// A stream to be.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) client: TransferServiceClient<Channel>,
    pub(super) transfer_id: String,
    pub(super) frames: FrameQueue,
    pub(super) meter: Arc<Meter>,
    pub(super) stall_timeout: Duration,
    /// After so long without a frame an empty one is sent, so that the gateway does not forget the transfer.
    pub(super) idle_period: Duration,
    /// What an empty frame says it is of.
    pub(super) any_disk: String,
}

/// Changed bytes per frame without acknowledgement.
type Outstanding = Mutex<HashMap<u64, u64>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    Sending,
    Finished,
}

impl Upload {
    /// Sends frames until the queue ends, and returns when all of them are durable.
    ///
    /// # Errors
    /// If the connection is lost, the gateway refuses a frame or leaves one without acknowledgement.
    pub(super) async fn run(self) -> Result<(), TransferError> {
        let outstanding = Outstanding::default();
        let (sender, receiver) = mpsc::channel(1);
        let (feed_state, feed) = watch::channel(Feed::Sending);
        let mut client = self.client.clone();
        let acknowledged = async {
            let acks = tokio::select! {
                answer = client.send_cells(ReceiverStream::new(receiver)) => {
                    answer.map_err(|status| TransferError::of_status(WHAT, status))?
                }
                () = stall(feed.clone(), self.stall_timeout) => {
                    return Err(TransferError::Timeout { what: "answer" });
                }
            };
            self.read_acks(acks.into_inner(), &outstanding, feed).await
        };
        let fed = async {
            self.feed(sender, &outstanding).await?;
            feed_state.send_replace(Feed::Finished);
            Ok(())
        };
        tokio::try_join!(fed, acknowledged)?;
        Ok(())
    }

    async fn feed(
        &self,
        sender: mpsc::Sender<holdfast_proto::v1::CellFrame>,
        outstanding: &Outstanding,
    ) -> Result<(), TransferError> {
        let mut number = 0;
        loop {
            let next = async { self.frames.lock().await.recv().await };
            let next = match tokio::time::timeout(self.idle_period, next).await {
                Ok(next) => next,
                Err(_) => Some(EncodedFrame::empty(&self.any_disk)),
            };
            let Some(EncodedFrame { mut frame, changed_bytes, payload_bytes }) = next else { return Ok(()) };
            number += 1;
            frame.transfer_id.clone_from(&self.transfer_id);
            frame.frame = number;
            lock(outstanding).insert(number, changed_bytes);
            match tokio::time::timeout(self.stall_timeout, sender.send(frame)).await {
                Ok(Ok(())) => self.meter.sent(payload_bytes),
                // The stream has ended; its status tells why.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return Err(TransferError::Timeout { what: "take a frame" }),
            }
        }
    }

    async fn read_acks(
        &self,
        mut acks: Streaming<FrameAck>,
        outstanding: &Outstanding,
        mut feed: watch::Receiver<Feed>,
    ) -> Result<(), TransferError> {
        loop {
            // While frames still go out their segment may stay open for long; after the last one it may not.
            let state = *feed.borrow_and_update();
            let message = match state {
                Feed::Finished => tokio::time::timeout(self.stall_timeout, acks.message())
                    .await
                    .map_err(|_| TransferError::Timeout { what: "acknowledge the last frames" })?,
                Feed::Sending => tokio::select! {
                    message = acks.message() => message,
                    _ = feed.changed() => continue,
                },
            };
            let Some(ack) = message.map_err(|status| TransferError::of_status(WHAT, status))? else { break };
            for frame in ack.frames {
                if let Some(changed_bytes) = lock(outstanding).remove(&frame) {
                    self.meter.acknowledged(changed_bytes);
                    crash_point("agent::frame_acked");
                }
            }
        }
        let complete = *feed.borrow() == Feed::Finished && lock(outstanding).is_empty();
        if complete { Ok(()) } else { Err(TransferError::Unacknowledged) }
    }
}

/// Returns when so much time has passed since the last frame was handed over.
async fn stall(mut feed: watch::Receiver<Feed>, timeout: Duration) {
    // The sender lives as long as the feed, which is polled beside this.
    let _ = feed.wait_for(|feed| *feed == Feed::Finished).await;
    tokio::time::sleep(timeout).await;
}

fn lock(outstanding: &Outstanding) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
    outstanding.lock().unwrap_or_else(PoisonError::into_inner)
}
