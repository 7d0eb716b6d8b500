//! Reading a disk of a point. Windows of the disk, in order; within one, each cell is fetched once, many at a time.

mod look;
mod plan;

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::{DeltaRoot, SegmentRef};
use holdfast_vault_format::segment::CellKind;
use holdfast_vault_format::{BLOCK_SIZE, Codec, Extent};

use crate::object;
use crate::segment::{Segment, SegmentId};
use crate::{Point, Vault, VaultError};
use plan::{Fetch, Plan};

/// Blocks that are planned at once: 256 MiB of disk.
const WINDOW: u64 = 64 << 10;
/// Requests under way.
const IN_FLIGHT: usize = 6;

/// A part of a disk: everything in it is authenticated against the point.
#[derive(Clone, Debug, Default)]
pub struct Window {
    pub zeros: Vec<Extent>,
    pub cells: Vec<StoredCell>,
}

/// A cell as it is stored, still encoded. Decode it and compare the hash before its bytes are used.
#[derive(Clone, Debug)]
pub struct StoredCell {
    pub codec: Codec,
    pub plain_bytes: u32,
    pub plain_hash: [u8; 32],
    pub pieces: Vec<Piece>,
    pub data: Bytes,
}

/// Blocks of a cell and where they belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First block within the cell.
    pub cell_block: u32,
    pub extent: Extent,
}

/// A disk of a point, opened: its deltas' roots were read and checked.
#[derive(Debug)]
pub struct DiskReader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    vault: Vault,
    machine: Uuid,
    machine_name: String,
    point: Uuid,
    disk: String,
    size_bytes: u64,
    /// Oldest first, with the backup that wrote each.
    deltas: Vec<(u64, DeltaRoot)>,
}

impl Vault {
    /// Opens one disk of a point.
    pub async fn open_disk(&self, point: &Point, disk: &str) -> Result<DiskReader, VaultError> {
        let entry = point.disk(disk).ok_or_else(|| VaultError::NoSuchDisk { disk: disk.to_owned() })?;
        let mut inner = Inner {
            vault: self.clone(),
            machine: point.machine,
            machine_name: point.machine_name.clone(),
            point: point.id,
            disk: disk.to_owned(),
            size_bytes: entry.size_bytes,
            deltas: Vec::with_capacity(entry.stack.len()),
        };
        for delta in entry.stack.iter().rev() {
            let root = self
                .delta_root(point.machine, delta)
                .await
                .map_err(|source| inner.damaged(0, blocks_of(entry.size_bytes), source))?;
            inner.deltas.push((delta.seq, root));
        }
        Ok(DiskReader { inner: Arc::new(inner) })
    }
}

impl DiskReader {
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes
    }

    /// The whole disk: together the windows cover each block exactly once.
    pub fn windows(self) -> impl Stream<Item = Result<Window, VaultError>> + Send + 'static {
        let blocks = blocks_of(self.inner.size_bytes);
        let inner = self.inner;
        let starts = (0..blocks).step_by(usize::try_from(WINDOW).unwrap_or(usize::MAX));
        futures::stream::iter(starts)
            .then(move |first| {
                let inner = Arc::clone(&inner);
                async move {
                    let end = (first + WINDOW).min(blocks);
                    let plan =
                        inner.plan(first, end).await.map_err(|source| inner.damaged(first, end, source))?;
                    Ok::<_, VaultError>(inner.fetch_all(plan, first, end))
                }
            })
            .try_flatten()
    }
}

impl Inner {
    /// Reads a segment's directory and checks that its cells are those that the delta was made of.
    async fn segment(&self, reference: &SegmentRef) -> Result<Arc<Segment>, VaultError> {
        let segment = self.vault.segment(SegmentId::named(self.machine, reference)).await?;
        if segment.root == reference.root {
            Ok(segment)
        } else {
            Err(VaultError::mismatch(&segment.name, "its cells are not those that the delta was made of"))
        }
    }

    fn fetch_all(
        self: Arc<Self>,
        plan: Plan,
        first: u64,
        end: u64,
    ) -> impl Stream<Item = Result<Window, VaultError>> + Send + 'static {
        let zeros = (!plan.zeros.is_empty()).then_some(Ok(Window { zeros: plan.zeros, cells: Vec::new() }));
        let cells = futures::stream::iter(plan.fetches)
            .map(move |fetch| {
                let inner = Arc::clone(&self);
                async move { inner.fetch(fetch).await.map_err(|source| inner.damaged(first, end, source)) }
            })
            .buffered(IN_FLIGHT);
        futures::stream::iter(zeros).chain(cells)
    }

    async fn fetch(&self, fetch: Fetch) -> Result<Window, VaultError> {
        let segment = self.segment(&fetch.segment).await?;
        let bytes = object::read_range(self.vault.store(), &segment.name, fetch.range.clone()).await?;
        let open = move || {
            let mut cells = Vec::with_capacity(fetch.cells.len());
            for (cell, pieces) in fetch.cells {
                let range = segment.range(cell)?;
                let at = |offset: u64| usize::try_from(offset - fetch.range.start).unwrap_or(usize::MAX);
                let stored = bytes.slice(at(range.start)..at(range.end));
                cells.push(open_cell(&segment, cell, pieces, stored)?);
            }
            Ok(Window { zeros: Vec::new(), cells })
        };
        tokio::task::spawn_blocking(open).await.map_err(|source| VaultError::Worker { source })?
    }

    fn damaged(&self, first: u64, end: u64, source: VaultError) -> VaultError {
        if !source.is_damage() {
            return source;
        }
        VaultError::DamagedRange {
            machine: self.machine_name.clone(),
            point: self.point,
            disk: self.disk.clone(),
            first_byte: first * BLOCK_SIZE as u64,
            end_byte: (end * BLOCK_SIZE as u64).min(self.size_bytes),
            source: Box::new(source),
        }
    }
}

fn open_cell(
    segment: &Segment,
    cell: u32,
    pieces: Vec<Piece>,
    stored: Bytes,
) -> Result<StoredCell, VaultError> {
    let entry = segment.entry(cell)?;
    let CellKind::Data { codec, .. } = entry.kind else {
        return Err(VaultError::mismatch(&segment.name, format!("cell {cell} holds no blocks")));
    };
    let blocks = u64::from(entry.plain_len) / BLOCK_SIZE as u64;
    if pieces.iter().any(|piece| u64::from(piece.cell_block) + piece.extent.block_count > blocks) {
        return Err(VaultError::mismatch(
            &segment.name,
            format!("cell {cell} is shorter than its delta says"),
        ));
    }
    let data = segment.open_cell(cell, stored)?.into();
    Ok(StoredCell { codec, plain_bytes: entry.plain_len, plain_hash: entry.hash, pieces, data })
}
