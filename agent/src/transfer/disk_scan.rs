//! One disk's part of a pass: finds the base to compare with, and runs the scan on a thread of its own.

use std::sync::Arc;

use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use holdfast_proto::v1::{DiskBase, MapLayer};
use holdfast_vault_format::BlockHasher;
use holdfast_vault_format::block::blocks_of;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use super::Transfer;
use super::base::{Base, RunSource};
use super::disk_wait::DiskWait;
use super::error::{TransferError, joined};
use super::gather::{Batch, Gatherer, Layout};
use super::map_file::MapLog;
use super::meter::Meter;
use super::remote_map::{self, QUEUED_RUNS};
use super::scan::{Scan, Scanned};
use crate::blocking::blocking;
use crate::kernel::IdleIo;

/// How long a feed that ended a scan has to say why.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(1);

/// A batch and the disk that it is of.
pub(super) type DiskBatch = (usize, Batch);

/// One disk's part of a pass.
pub(super) struct DiskScan {
    pub(super) transfer: Transfer,
    pub(super) disk: usize,
    pub(super) base: DiskBase,
    pub(super) client: TransferServiceClient<Channel>,
    pub(super) transfer_id: String,
    pub(super) cell_blocks: u64,
    pub(super) batches: mpsc::Sender<DiskBatch>,
    pub(super) meter: Arc<Meter>,
    pub(super) scans: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl DiskScan {
    /// Scans the disk and hands on what differs.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub(super) async fn run(self) -> Result<Scanned, TransferError> {
        let mut feeds = JoinSet::new();
        let mut key = [0; 32];
        key.copy_from_slice(&self.base.block_hash_key);
        let local = self.open_local(key).await;
        let base = self.open_base(local.as_ref(), &mut feeds);
        let DiskScan { transfer, disk, base: known, cell_blocks, batches, meter, scans, stop, .. } = self;
        let (wait, limit) = (Arc::new(DiskWait::default()), transfer.config.timing.stall_timeout);
        let silent = || TransferError::Silent { disk: known.name.clone(), limit_s: limit.as_secs() };
        let place = transfer.snapshot.disks[disk].place.clone();
        let place = transfer.places.take(place, limit).await.ok_or_else(silent)?;
        let layout = if known.base_size_bytes == 0 { Layout::Aligned } else { Layout::Gathered };
        let waiting = Arc::clone(&wait);
        let mut scanning = scans.spawn_blocking(move || {
            let (_place, _idle) = (place, IdleIo::begin());
            let source = &transfer.snapshot.disks[disk];
            let map = match local {
                Some(log) => transfer.maps.begin_changes(&source.name, &key, log),
                None => transfer.maps.begin(&source.name, &key),
            };
            let map = map.inspect_err(|error| {
                tracing::warn!(disk = source.name, %error, "cannot begin a local block map");
            });
            let scan = Scan {
                disk: source,
                wait: &waiting,
                hasher: BlockHasher::new(&key),
                base,
                gatherer: Gatherer::new(layout, cell_blocks, |batch| {
                    batches.blocking_send((disk, batch)).map_err(|_| TransferError::Stopped)
                }),
                map: map.ok(),
                meter: &meter,
                stop: &stop,
            };
            scan.run()
        });
        let hanging = wait.longer_than(limit);
        tokio::pin!(hanging);
        let scanned = loop {
            tokio::select! {
                () = &mut hanging => return Err(silent()),
                scanned = &mut scanning => break joined(scanned)?,
                Some(fed) = feeds.join_next() => joined(fed)??,
            }
        };
        if matches!(scanned, Err(TransferError::Stopped)) {
            // A feed that failed lets go of the scan before it says why.
            let why = async {
                while let Some(fed) = feeds.join_next().await {
                    joined(fed)??;
                }
                Ok::<(), TransferError>(())
            };
            if let Ok(fed) = tokio::time::timeout(LAST_WORD, why).await {
                fed?;
            }
        }
        scanned
    }

    /// The local map if it is the base's.
    async fn open_local(&self, key: [u8; 32]) -> Option<MapLog> {
        let base_blocks = blocks_of(self.base.base_size_bytes);
        if base_blocks == 0 {
            return None;
        }
        let (maps, name, id) =
            (Arc::clone(&self.transfer.maps), self.base.name.clone(), self.base.base_map_id.clone());
        blocking(move || maps.open(&name, &key, &id, base_blocks)).await
    }

    /// The base by its local map, otherwise by the gateway's; and what was received for this point already.
    fn open_base(&self, local: Option<&MapLog>, feeds: &mut JoinSet<Result<(), TransferError>>) -> Base {
        let mut fetch = |layer| {
            let (sender, receiver) = mpsc::channel(QUEUED_RUNS);
            feeds.spawn(remote_map::feed(
                self.client.clone(),
                self.transfer_id.clone(),
                self.base.name.clone(),
                layer,
                self.transfer.config.timing.stall_timeout,
                sender,
            ));
            RunSource::Fetched(receiver)
        };
        let lower = match local {
            _ if self.base.base_size_bytes == 0 => RunSource::Empty,
            Some(log) => RunSource::Local(Box::new(log.reader())),
            // It holds what was received too.
            None => return Base::new(fetch(MapLayer::Merged), RunSource::Empty),
        };
        let upper = if self.base.has_overlay { fetch(MapLayer::Overlay) } else { RunSource::Empty };
        Base::new(lower, upper)
    }
}
