//! One upload stream: frames come in, acknowledgements of what is durable go out.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error};
use holdfast_proto::v1::{CellFrame, FrameAck};
use holdfast_vault_engine::{Receipt, VaultError};

use crate::Gateway;
use crate::error::{internal, invalid_cell, reopen, status_of};
use crate::metrics::{ACKNOWLEDGED_FRAMES, KNOWN_CELLS, RECEIVED_BYTES, RECEIVED_CELLS, REFUSED_FRAMES};
use crate::transfers::{Connection, ENDED, Transfer};
use crate::wire;

/// Frames of one stream that are decoded at once.
const DECODING: usize = 2;
/// Frames that may wait for their segment; more make the gateway store what it has.
const MAX_WAITING: usize = 1024;
/// How long an agent may leave its acknowledgements unread.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(60);

type Acks = mpsc::Sender<Result<FrameAck, Status>>;

/// A stream of an agent's open transfer.
pub(crate) struct Stream {
    pub(crate) transfer: Arc<Transfer>,
    pub(crate) connection: Connection,
}

impl Stream {
    /// Serves it to its end, however long it is silent: its place is its transfer's.
    pub(crate) async fn serve(
        &self,
        gateway: &Gateway,
        frames: Streaming<CellFrame>,
        acks: &Acks,
    ) -> Result<(), Status> {
        tokio::select! {
            received = self.receive(gateway, frames, acks) => received,
            () = self.connection.closed.cancelled() => Err(reopen(ENDED)),
            () = acks.closed() => Ok(()),
        }
    }

    async fn receive(
        &self,
        gateway: &Gateway,
        mut frames: Streaming<CellFrame>,
        acks: &Acks,
    ) -> Result<(), Status> {
        let Some(first) = frames.message().await.map_err(unreadable)? else { return Ok(()) };
        if first.transfer_id != self.connection.id {
            // It may be one that was open before, or another agent's.
            let found = gateway.inner.transfers.find(self.transfer.agent, &first.transfer_id);
            return Err(found.err().unwrap_or_else(|| reopen(ENDED)));
        }
        let mut last = 0;
        let frames = futures::stream::iter([Ok(first)]).chain(frames);
        let mut pushed = frames
            .map(|frame| {
                let frame = frame.map_err(unreadable)?;
                if frame.transfer_id != self.connection.id || frame.frame <= last {
                    return Err(invalid_cell("a frame out of order, or of another transfer"));
                }
                last = frame.frame;
                Ok(frame)
            })
            .map_ok(|frame| self.push(frame))
            .try_buffered(DECODING);
        let mut waiting = FuturesUnordered::new();
        let mut all_received = false;
        loop {
            tokio::select! {
                next = pushed.next(), if !all_received => match next {
                    Some(pushed) => {
                        let (frame, receipt) = pushed?;
                        waiting.push(async move { receipt.durable().await.map(|()| frame) });
                        if waiting.len() >= MAX_WAITING {
                            self.flush().await?;
                        }
                    }
                    None => {
                        all_received = true;
                        self.flush().await?;
                    }
                },
                Some(durable) = waiting.next() => {
                    let mut durable = vec![durable];
                    // The frames of one segment become durable together.
                    while let Some(Some(next)) = waiting.next().now_or_never() {
                        durable.push(next);
                    }
                    acknowledge(durable, acks).await?;
                }
                else => return Ok(()),
            }
        }
    }

    /// Hands a frame to the vault. In a task that goes on when the stream ends: opening the transfer again waits for it, so
    /// that the maps do not change behind the agent's back.
    async fn push(&self, frame: CellFrame) -> Result<(u64, Receipt), Status> {
        self.transfer.touch();
        let number = frame.frame;
        let frame = wire::read_frame(frame).inspect_err(|_| REFUSED_FRAMES.add(1))?;
        let (bytes, cells) = (frame.cells.iter().map(|cell| cell.data.len()).sum(), frame.cells.len());
        let backup = self.transfer.backup.clone();
        let push = async move { backup.push(&frame.disk, frame.cells, frame.zeros).await };
        let receipt = self.connection.work.spawn(push).await.map_err(|_| internal())?.map_err(|error| {
            REFUSED_FRAMES.add(usize::from(error.is_invalid_input()));
            refused(&error)
        })?;
        RECEIVED_BYTES.add(bytes);
        RECEIVED_CELLS.add(cells);
        KNOWN_CELLS.add(receipt.known_cells());
        Ok((number, receipt))
    }

    /// Makes what was received durable; in a task, like a push.
    async fn flush(&self) -> Result<(), Status> {
        let backup = self.transfer.backup.clone();
        let flush = async move { backup.flush().await };
        self.connection.work.spawn(flush).await.map_err(|_| internal())?.map_err(|error| status_of(&error))
    }
}

async fn acknowledge(durable: Vec<Result<u64, VaultError>>, acks: &Acks) -> Result<(), Status> {
    let mut frames = Vec::with_capacity(durable.len());
    let mut failed = None;
    for frame in durable {
        match frame {
            Ok(frame) => frames.push(frame),
            Err(error) => failed = Some(status_of(&error)),
        }
    }
    if !frames.is_empty() {
        ACKNOWLEDGED_FRAMES.add(frames.len());
        acks.send_timeout(Ok(FrameAck { frames }), ACK_TIMEOUT)
            .await
            .map_err(|_| reopen("the agent does not read its acknowledgements"))?;
    }
    failed.map_or(Ok(()), Err)
}

/// In a frame, an unknown disk is as wrong as a wrong cell.
fn refused(error: &VaultError) -> Status {
    match error {
        VaultError::NoSuchDisk { .. } => invalid_cell(error.to_string()),
        error => status_of(error),
    }
}

/// A message that could not be taken off the wire.
fn unreadable(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            REFUSED_FRAMES.add(1);
            agent_error("frame_too_large", status.message()).into_status(Code::InvalidArgument)
        }
        _ => status,
    }
}
