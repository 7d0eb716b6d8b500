//! One pass of a transfer: open, scan and send all disks, commit.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use holdfast_proto::v1::{
    CommitTransferRequest, CommitTransferResponse, DiskBase, DiskSummary, OpenTransferRequest,
    OpenTransferResponse,
};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use super::Transfer;
use super::answer::Answer;
use super::compress::{self, EncodedFrame};
use super::disk_scan::{DiskBatch, DiskScan};
use super::error::{TransferError, joined};
use super::meter::Meter;
use super::scan::Scanned;
use super::upload::{FrameQueue, Upload};
use crate::address::Address;
use crate::blocking::blocking;
use crate::context::Context;
use crate::crash_point::crash_point;
use crate::dial::Purpose;

/// Disks that are scanned at once: each takes some 8 MiB of buffers.
const MAX_PARALLEL_DISKS: usize = 12;
/// Frames (of at most 2 MiB) that wait for a stream.
const QUEUED_FRAMES: usize = 4;
/// The gateway builds the deltas of all disks in it; keepalive notices a dead one sooner.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1800);

type BatchQueue = Arc<Mutex<mpsc::Receiver<DiskBatch>>>;

/// What a part of the pass has to say at its end.
enum Part {
    Scanned { disk: usize, scanned: Scanned },
    Other,
}

/// An open transfer.
struct Opened {
    gateway: Address,
    client: TransferServiceClient<Channel>,
    transfer_id: String,
    bases: Vec<DiskBase>,
    cell_blocks: u64,
}

impl Transfer {
    /// Runs one pass. Returns the id of the committed point.
    ///
    /// # Errors
    /// See [`TransferError`]; with a loss the next pass goes on where the gateway stopped.
    pub(super) async fn pass(
        &self,
        context: &Context,
        meter: &Arc<Meter>,
        scans: &TaskTracker,
    ) -> Result<String, TransferError> {
        self.check_snapshot().await?;
        let (gateway, channel) = self.connect().await?;
        let mut client = client(channel);
        let answer = self.open(context, &mut client).await?;
        crash_point("agent::transfer_opened");
        if !answer.committed_point_id.is_empty() {
            return Ok(answer.committed_point_id);
        }
        let opened = self.check_answer(gateway, client, answer)?;
        let scanned = self.send_all(&opened, meter, scans).await?;
        self.check_snapshot().await?;
        crash_point("agent::before_commit");
        let answer = self.commit(context, &opened, &scanned).await?;
        crash_point("agent::committed");
        self.keep_maps(scanned, &answer).await;
        Ok(answer.point_id)
    }

    /// Each disk on a thread of its own: it may not answer.
    async fn check_snapshot(&self) -> Result<(), TransferError> {
        let limit = self.config.timing.stall_timeout;
        for (index, disk) in self.snapshot.disks.iter().enumerate() {
            let silent = || TransferError::Silent { disk: disk.name.clone(), limit_s: limit.as_secs() };
            let place = self.places.take(disk.place.clone(), limit).await.ok_or_else(silent)?;
            let snapshot = Arc::clone(&self.snapshot);
            let check = blocking(move || {
                let _place = place;
                snapshot.disks[index].check()
            });
            tokio::time::timeout(limit, check).await.map_err(|_| silent())??;
        }
        Ok(())
    }

    /// Connects to the first gateway that can be reached.
    async fn connect(&self) -> Result<(Address, Channel), TransferError> {
        let mut last = None;
        for gateway in &self.gateways {
            match self.dialer.connect(gateway, Purpose::Data).await {
                Ok(channel) => return Ok((gateway.clone(), channel)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| TransferError::protocol("no gateway was named"), TransferError::Dial))
    }

    async fn open(
        &self,
        context: &Context,
        client: &mut TransferServiceClient<Channel>,
    ) -> Result<OpenTransferResponse, TransferError> {
        const WHAT: &str = "open the transfer";
        let request = OpenTransferRequest {
            attempt: Some(context.attempt.to_wire()),
            snapshot_id: self.snapshot.id.to_string(),
            disks: self.snapshot.disks.iter().map(crate::snapshot::SnapshotDisk::to_wire).collect(),
        };
        tokio::time::timeout(self.config.timing.stall_timeout, client.open_transfer(request))
            .await
            .map_err(|_| TransferError::Timeout { what: WHAT })?
            .map(tonic::Response::into_inner)
            .map_err(|status| TransferError::of_status(WHAT, status))
    }

    fn check_answer(
        &self,
        gateway: Address,
        client: TransferServiceClient<Channel>,
        answer: OpenTransferResponse,
    ) -> Result<Opened, TransferError> {
        let disks = self.snapshot.disks.iter().map(|disk| disk.name.as_str());
        let Answer { transfer_id, bases, cell_blocks } =
            Answer::check(answer, disks).map_err(TransferError::protocol)?;
        Ok(Opened { gateway, client, transfer_id, bases, cell_blocks })
    }

    /// Scans all disks and sends what differs. Returns when everything is acknowledged.
    async fn send_all(
        &self,
        opened: &Opened,
        meter: &Arc<Meter>,
        scans: &TaskTracker,
    ) -> Result<Vec<Scanned>, TransferError> {
        // Ends every part, also when this future is dropped.
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let workers = available_parallelism().map_or(2, std::num::NonZero::get).min(8);
        let (batch_sender, batches) = mpsc::channel(workers);
        let (frame_sender, frames) = mpsc::channel(QUEUED_FRAMES);
        let mut parts = JoinSet::new();
        let parallel = Arc::new(Semaphore::new(MAX_PARALLEL_DISKS));
        for (disk, base) in opened.bases.iter().enumerate() {
            let scan = DiskScan {
                transfer: self.clone(),
                disk,
                base: base.clone(),
                client: opened.client.clone(),
                transfer_id: opened.transfer_id.clone(),
                cell_blocks: opened.cell_blocks,
                batches: batch_sender.clone(),
                meter: Arc::clone(meter),
                scans: scans.clone(),
                stop: stop.clone(),
            };
            let parallel = Arc::clone(&parallel);
            parts.spawn(async move {
                let _permit = parallel.acquire_owned().await.map_err(|_| TransferError::Stopped)?;
                let scanned = scan.run().await?;
                Ok(Part::Scanned { disk, scanned })
            });
        }
        drop(batch_sender);
        let batches: BatchQueue = Arc::new(Mutex::new(batches));
        for _ in 0..workers {
            parts.spawn(self.clone().compress(Arc::clone(&batches), frame_sender.clone()));
        }
        // Only the workers keep the queues open from here: their ends must reach the streams.
        drop((batches, frame_sender));
        let frames: FrameQueue = Arc::new(Mutex::new(frames));
        for _ in 0..self.config.upload_streams {
            let (transfer, gateway, frames) = (self.clone(), opened.gateway.clone(), Arc::clone(&frames));
            let (transfer_id, meter) = (opened.transfer_id.clone(), Arc::clone(meter));
            parts.spawn(async move {
                let channel =
                    transfer.dialer.connect(&gateway, Purpose::Data).await.map_err(TransferError::Dial)?;
                let timing = &transfer.config.timing;
                let upload = Upload {
                    client: client(channel),
                    transfer_id,
                    frames,
                    meter,
                    stall_timeout: timing.stall_timeout,
                    idle_period: timing.transfer_keepalive,
                    any_disk: transfer
                        .snapshot
                        .disks
                        .first()
                        .map(|disk| disk.name.clone())
                        .unwrap_or_default(),
                };
                upload.run().await.map(|()| Part::Other)
            });
        }
        drop(frames);
        collect(parts, &stop, opened.bases.len()).await
    }

    async fn compress(
        self,
        batches: BatchQueue,
        frames: mpsc::Sender<EncodedFrame>,
    ) -> Result<Part, TransferError> {
        loop {
            let next = batches.lock().await.recv().await;
            let Some((disk, batch)) = next else { return Ok(Part::Other) };
            let (snapshot, level) = (Arc::clone(&self.snapshot), self.config.compression_level);
            let encoded = blocking(move || compress::encode(&batch, &snapshot.disks[disk].name, level)).await;
            frames.send(encoded).await.map_err(|_| TransferError::Stopped)?;
        }
    }

    async fn commit(
        &self,
        context: &Context,
        opened: &Opened,
        scanned: &[Scanned],
    ) -> Result<CommitTransferResponse, TransferError> {
        const WHAT: &str = "commit the point";
        let request = CommitTransferRequest {
            transfer_id: opened.transfer_id.clone(),
            attempt: Some(context.attempt.to_wire()),
            disks: self
                .snapshot
                .disks
                .iter()
                .zip(scanned)
                .map(|(disk, scanned)| DiskSummary {
                    name: disk.name.clone(),
                    read_bytes: scanned.read_bytes,
                })
                .collect(),
        };
        let mut client = opened.client.clone();
        tokio::time::timeout(COMMIT_TIMEOUT, client.commit_transfer(request))
            .await
            .map_err(|_| TransferError::Timeout { what: WHAT })?
            .map(tonic::Response::into_inner)
            .map_err(|status| TransferError::of_status(WHAT, status))
    }

    /// Puts the new maps in force. Whatever fails here costs the next backup a fetch, no more.
    async fn keep_maps(&self, scanned: Vec<Scanned>, answer: &CommitTransferResponse) {
        let ids: Vec<Option<[u8; 32]>> =
            answer.map_ids.iter().map(|id| id.as_slice().try_into().ok()).collect();
        let names: Vec<String> = self.snapshot.disks.iter().map(|disk| disk.name.clone()).collect();
        let keep = move || {
            for ((scanned, id), name) in scanned.into_iter().zip(ids).zip(names) {
                if let (Some(map), Some(id)) = (scanned.map, id)
                    && let Err(error) = map.activate(id)
                {
                    tracing::warn!(disk = name, %error, "cannot keep the local block map");
                }
            }
        };
        if tokio::task::spawn_blocking(keep).await.is_err() {
            tracing::error!("keeping the local block maps panicked");
        }
    }
}

/// Waits for all parts; the first failure stops the others, the weightiest one tells why.
async fn collect(
    mut parts: JoinSet<Result<Part, TransferError>>,
    stop: &CancellationToken,
    disks: usize,
) -> Result<Vec<Scanned>, TransferError> {
    let mut scanned: Vec<Option<Scanned>> = std::iter::repeat_with(|| None).take(disks).collect();
    let mut failure: Option<TransferError> = None;
    while let Some(part) = parts.join_next().await {
        let error = match joined(part).flatten() {
            Ok(Part::Scanned { disk, scanned: result }) => {
                scanned[disk] = Some(result);
                continue;
            }
            Ok(Part::Other) => continue,
            Err(error) => error,
        };
        if failure.as_ref().is_none_or(|failure| failure.rank() < error.rank()) {
            failure = Some(error);
        }
        stop.cancel();
        parts.abort_all();
    }
    match failure {
        Some(failure) => Err(failure),
        None => scanned.into_iter().collect::<Option<_>>().ok_or(TransferError::Stopped),
    }
}

fn client(channel: Channel) -> TransferServiceClient<Channel> {
    TransferServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
