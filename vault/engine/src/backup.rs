//! Receiving a backup. What was acknowledged is durable; everything else may be lost at any time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::container::TAG_LEN;
use holdfast_vault_format::record::PointRef;
use holdfast_vault_format::segment::{CellBlocks, MAX_ZERO_EXTENTS};
use holdfast_vault_format::{BlockHasher, Extent};

use crate::buffer::Buffers;
use crate::segment_id::SegmentId;
use crate::writer::{DataCell, SegmentWriter};
use crate::{Point, Vault, VaultError, blocking};

mod adopt;
mod check;
mod known;
mod lent;
mod request;
mod state;
mod upload;

pub use check::NewCell;
pub use request::{BeginBackup, DiskSpec};
pub use upload::Receipt;

use check::{CheckedCell, check_cells, check_extents};
use known::{Finder, Known};
pub(crate) use state::{OpenSegment, State};
use state::{receive, receive_zeros};
use upload::{UPLOADS, Upload, upload, wait};

/// Block maps of the first generation; a new one means that everything is compared by new hashes.
const MAP_GENERATION: u32 = 1;

/// For so long an open transfer reads what it takes over, at most: agents give it up after five minutes, and the next try would begin
/// anew.
const ADOPTING: Duration = Duration::from_secs(120);

/// A backup in progress. Cheap to clone; all methods may be called from many tasks.
#[derive(Clone)]
pub struct Backup {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) vault: Vault,
    pub(crate) request: BeginBackup,
    pub(crate) opened: Opened,
    hasher: BlockHasher,
    finder: Finder,
    state: Mutex<State>,
    uploads: Arc<Semaphore>,
    buffers: Arc<Buffers>,
}

/// What a backup began with.
pub(crate) struct Opened {
    pub(crate) seq: u64,
    /// Stored length of its `open` object.
    pub(crate) open_bytes: u64,
    pub(crate) base: Option<Point>,
    /// Every page of the base was read, not only the roots of its deltas.
    pub(crate) is_base_read: bool,
    /// The newest point, whether it can be built upon or not.
    pub(crate) previous: Option<PointRef>,
}

impl Opened {
    fn heals(&self) -> bool {
        self.base.is_none() && self.previous.is_some()
    }
}

/// What is known of a disk before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskBase {
    /// 0 without a base.
    pub base_size_bytes: u64,
    pub block_hash_key: [u8; 32],
    /// Names the base's block map; `None` without a base.
    pub map_id: Option<[u8; 32]>,
    pub has_overlay: bool,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("machine", &self.shared.request.machine)
            .field("seq", &self.seq())
            .finish()
    }
}

impl Backup {
    /// The point that it is built upon.
    #[must_use]
    pub fn base(&self) -> Option<PointRef> {
        self.shared.opened.base.as_ref().map(Point::reference)
    }

    /// Whether a page of the base may turn out damaged: not all of them were read. The next begin reads them.
    #[must_use]
    pub fn may_have_damaged_base(&self) -> bool {
        let opened = &self.shared.opened;
        opened.base.is_some() && !opened.is_base_read
    }

    /// The newest point, if that is damaged: this backup is a full one then.
    #[must_use]
    pub fn heals(&self) -> Option<PointRef> {
        self.shared.opened.previous.filter(|_| self.shared.opened.heals())
    }

    pub(crate) async fn start(
        vault: Vault,
        request: BeginBackup,
        opened: Opened,
        adopted: &[u64],
        condemned: Option<Arc<HashSet<CondemnedSegment>>>,
    ) -> Result<Self, VaultError> {
        let hasher = BlockHasher::new(&vault.inner.ring.key.block_hash_key(request.machine, MAP_GENERATION));
        let mut state = State::new(request.disks.len());
        if let Some(condemned) = &condemned {
            let look = adopt::Look { until: Instant::now() + ADOPTING, heals: opened.heals() };
            adopt::adopt(&vault, &request, adopted, condemned, look, &mut state).await?;
        }
        let shared = Shared {
            vault,
            request,
            opened,
            hasher,
            finder: Finder::new(condemned),
            state: Mutex::new(state),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            buffers: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    #[must_use]
    pub fn seq(&self) -> u64 {
        self.shared.opened.seq
    }

    /// What is known of a disk now.
    pub fn disk_base(&self, disk: &str) -> Result<DiskBase, VaultError> {
        let index = self.disk_index(disk)?;
        let shared = &self.shared;
        let base = shared.opened.base.as_ref().and_then(|point| Some((point, point.disk(disk)?)));
        Ok(DiskBase {
            base_size_bytes: base.map_or(0, |(_, entry)| entry.size_bytes),
            block_hash_key: shared
                .vault
                .inner
                .ring
                .key
                .block_hash_key(shared.request.machine, MAP_GENERATION),
            map_id: base.and_then(|(point, _)| point.map_id(disk)),
            has_overlay: !self.state().disks[index].layer.is_empty(),
        })
    }

    /// Takes changed blocks: each cell is decoded, checked and hashed; if one is bad, none is taken.
    pub async fn push(
        &self,
        disk: &str,
        cells: Vec<NewCell>,
        zeros: Vec<Extent>,
    ) -> Result<Receipt, VaultError> {
        let index = self.disk_index(disk)?;
        let blocks = blocks_of(self.shared.request.disks[index].size_bytes);
        for extents in cells.iter().map(|cell| cell.extents.as_slice()).chain([zeros.as_slice()]) {
            check_extents(extents, blocks)?;
        }
        self.shared.room().await?;
        let shared = Arc::clone(&self.shared);
        let checked = blocking(move || check_cells(&shared.hasher, cells)).await?;
        let known = self.shared.finder.find(&self.shared.vault, &checked).await;
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.append(index, checked, known, &zeros)).await
    }

    /// Stores what was received so far and waits until all of it is durable.
    pub async fn flush(&self) -> Result<(), VaultError> {
        {
            let mut state = self.state();
            if let Some(open) = state.writer.take() {
                self.shared.seal(&mut state, open)?;
            }
        }
        self.shared.stored().await
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Nothing may be pushed any more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// Once there is a point, nobody asks for it any more.
    pub(crate) fn forget_received(&self) {
        let mut state = self.state();
        state.lent = Arc::default();
        self.shared.buffers.close();
        for disk in &mut state.disks {
            disk.layer = Arc::default();
        }
    }

    pub(crate) fn disk_index(&self, disk: &str) -> Result<usize, VaultError> {
        self.shared
            .request
            .disks
            .iter()
            .position(|spec| spec.name == disk)
            .ok_or_else(|| VaultError::NoSuchDisk { disk: disk.to_owned() })
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place only to wait for one: with all of them taken, no more segments are filled.
    pub(crate) async fn room(&self) -> Result<(), VaultError> {
        self.uploads.acquire().await.map(drop).map_err(|_| VaultError::Broken)
    }

    /// Waits until every sealed segment is durable.
    pub(crate) async fn stored(&self) -> Result<(), VaultError> {
        // They stay in the state: whoever asks next, or instead of this caller, waits for them as well.
        let in_flight = self.state().in_flight.clone();
        for upload in in_flight {
            wait(upload).await?;
        }
        Ok(())
    }

    fn append(
        &self,
        disk: usize,
        cells: Vec<CheckedCell>,
        known: Vec<Option<Known>>,
        zeros: &[Extent],
    ) -> Result<Receipt, VaultError> {
        let disk_number = u32::try_from(disk).unwrap_or(u32::MAX);
        let mut receipt = Receipt::default();
        let mut guard = self.state();
        let state = &mut *guard;
        if state.closed {
            return Err(VaultError::BadInput { detail: "the backup is being committed".to_owned() });
        }
        state.check_uploads()?;
        receipt.known_cells = known.iter().flatten().count();
        for (CheckedCell { cell, hash, hashes }, known) in cells.into_iter().zip(known) {
            let open = self.open_segment(state, &mut receipt)?;
            let slot = open.slot;
            let blocks = CellBlocks { extents: cell.extents, hashes };
            let (number, stored) = match &known {
                None => {
                    let entry =
                        DataCell { disk: disk_number, codec: cell.codec, plain_len: cell.plain_bytes, hash };
                    (open.writer.data(entry, blocks.clone(), &cell.data)?, cell.data.len())
                }
                Some(known) => {
                    let place = known.reference().encode();
                    let number =
                        open.writer.known(disk_number, cell.plain_bytes, hash, blocks.clone(), &place)?;
                    (number, place.len())
                }
            };
            self.seal_if_full(state)?;
            match &known {
                None => receive(Arc::make_mut(&mut state.disks[disk].layer), slot, number, &blocks),
                Some(known) => state.receive_known(disk, (slot, number), &blocks, known),
            }
            let into = &mut state.disks[disk];
            into.sent_bytes += cell.data.len() as u64;
            into.cell_bytes += (stored + TAG_LEN) as u64;
        }
        for extents in zeros.chunks(MAX_ZERO_EXTENTS) {
            let open = self.open_segment(state, &mut receipt)?;
            open.writer.zero(disk_number, extents.to_vec())?;
            self.seal_if_full(state)?;
            receive_zeros(Arc::make_mut(&mut state.disks[disk].layer), extents);
        }
        Ok(receipt)
    }

    /// The open segment, or a new one; `receipt` waits for it.
    pub(crate) fn open_segment<'s>(
        &self,
        state: &'s mut State,
        receipt: &mut Receipt,
    ) -> Result<&'s mut OpenSegment, VaultError> {
        if state.writer.is_none() {
            let id = SegmentId {
                machine: self.request.machine,
                seq: self.opened.seq,
                number: state.next_number,
                generation: 0,
            };
            let disks = self.request.disks.iter().map(|disk| disk.name.clone()).collect();
            let writer = SegmentWriter::new(
                &self.vault.inner.ring,
                id,
                self.request.snapshot_id,
                disks,
                &self.buffers,
            )?;
            state.next_number += 1;
            let slot = state.slot(id, None, 0);
            let (done, _) = watch::channel(Upload::Pending);
            state.writer = Some(OpenSegment { slot, writer, done });
        }
        let open = state.writer.as_mut().ok_or(VaultError::Broken)?;
        receipt.add(open.done.subscribe());
        Ok(open)
    }

    pub(crate) fn seal_if_full(&self, state: &mut State) -> Result<(), VaultError> {
        match state.writer.take_if(|open| open.writer.is_full()) {
            Some(open) => self.seal(state, open),
            None => Ok(()),
        }
    }

    /// Ends a segment and has it stored by a task of its own, so that nobody who stops waiting can lose it.
    fn seal(&self, state: &mut State, open: OpenSegment) -> Result<(), VaultError> {
        let sealed = open.writer.finish()?;
        let slot = &mut state.segments[open.slot];
        slot.root = Some(sealed.root);
        slot.size = sealed.bytes.len() as u64;
        state.in_flight.retain(|upload| *upload.borrow() != Upload::Durable);
        state.in_flight.push(open.done.subscribe());
        tokio::spawn(upload(self.vault.clone(), sealed, open.done, Arc::clone(&self.uploads)));
        Ok(())
    }
}
