//! Reading a disk of a point. Windows of the disk, in order; within one, each cell is fetched once, many at a time.

mod look;
mod places;
mod plan;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::{DeltaRoot, SegmentRef};
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::segment::CellKind;
use holdfast_vault_format::{BLOCK_SIZE, Codec, Extent, cell_hash};

use crate::blocking::on_its_own;
use crate::segment::StoredCells;
use crate::segment_id::SegmentId;
use crate::{Point, Vault, VaultError, blocking};
pub(crate) use look::Part;
use places::LastPages;
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
    last_pages: Mutex<LastPages>,
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
            last_pages: Mutex::default(),
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
                on_its_own(async move {
                    inner.fetch(fetch).await.map_err(|source| inner.damaged(first, end, source))
                })
            })
            .buffered(IN_FLIGHT);
        futures::stream::iter(zeros).chain(cells)
    }

    async fn fetch(&self, fetch: Fetch) -> Result<Window, VaultError> {
        let Fetch { reference, segment, cells, .. } = fetch;
        match self.fetch_together(reference, segment, cells.clone()).await {
            // It was replaced since it was planned, and what is left need not lie together any more; or not all of it reads.
            Err(error) if error.is_damage() => self.fetch_each(reference, cells).await,
            fetched => fetched,
        }
    }

    /// By one request, from the generation that was planned.
    async fn fetch_together(
        &self,
        reference: SegmentRef,
        id: SegmentId,
        cells: Vec<(u32, Vec<Piece>)>,
    ) -> Result<Window, VaultError> {
        let (Some((first, _)), Some((last, _))) = (cells.first(), cells.last()) else {
            return Ok(Window::default());
        };
        let mut stored =
            StoredCells::read(&self.vault, self.vault.exact_segment(id).await?, *first..=*last).await?;
        blocking(move || {
            let numbers: Vec<u32> = cells.iter().map(|(cell, _)| *cell).collect();
            let opened = stored.open_in_place(&numbers)?;
            let open = |(data, (cell, pieces))| open_cell(&stored, &reference, cell, pieces, data);
            window(opened.into_iter().zip(cells).map(open))
        })
        .await
    }

    /// The same cell by cell, each from whichever generation gives its blocks.
    async fn fetch_each(
        &self,
        reference: SegmentRef,
        cells: Vec<(u32, Vec<Piece>)>,
    ) -> Result<Window, VaultError> {
        let id = SegmentId::named(self.machine, &reference);
        let mut opened = Vec::with_capacity(cells.len());
        for (cell, pieces) in cells {
            let blocks = blocks_of_pieces(&pieces);
            let open = |stored: &StoredCells| {
                open_cell(stored, &reference, cell, pieces.clone(), stored.open(cell)?.into())
            };
            opened.push(Ok(self.vault.read_cell(id, cell, blocks, open).await?));
        }
        window(opened.into_iter())
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

fn window(cells: impl Iterator<Item = Result<StoredCell, VaultError>>) -> Result<Window, VaultError> {
    Ok(Window { zeros: Vec::new(), cells: cells.collect::<Result<_, _>>()? })
}

/// The blocks of their cell that these are.
fn blocks_of_pieces(pieces: &[Piece]) -> Blocks {
    let blocks = pieces.iter().map(|piece| Blocks::run(piece.cell_block, piece.extent.block_count));
    blocks.fold(Blocks::default(), Blocks::with)
}

fn open_cell(
    stored: &StoredCells,
    reference: &SegmentRef,
    cell: u32,
    pieces: Vec<Piece>,
    data: Bytes,
) -> Result<StoredCell, VaultError> {
    let segment = &stored.segment;
    if segment.root != reference.root {
        return Err(VaultError::mismatch(
            &segment.name,
            "its cells are not those that the delta was made of",
        ));
    }
    let entry = segment.entry(cell)?;
    match entry.kind {
        CellKind::Kept { codec, kept: blocks } => {
            if !blocks.has_all(blocks_of_pieces(&pieces)) {
                let detail = format!("cell {cell} does not hold what its delta says");
                return Err(VaultError::mismatch(&segment.name, detail));
            }
            let kept = stored.kept(cell, codec, blocks, &data)?;
            // A cell of its own: it was compared with the hash of the whole, which nobody can tell from what is left. All of a
            // piece is kept, so it stays together.
            let moved = pieces
                .iter()
                .map(|piece| Piece { cell_block: blocks.before(piece.cell_block), extent: piece.extent });
            Ok(StoredCell {
                codec,
                plain_bytes: u32::try_from(kept.plain.len()).unwrap_or(u32::MAX),
                plain_hash: cell_hash(&kept.plain),
                pieces: moved.collect(),
                data: data.slice_ref(kept.data),
            })
        }
        CellKind::Data { codec, .. } => {
            Ok(StoredCell { codec, plain_bytes: entry.plain_len, plain_hash: entry.hash, pieces, data })
        }
        CellKind::Zero { .. } | CellKind::Meta | CellKind::Known { .. } | CellKind::Gone => {
            Err(VaultError::mismatch(&segment.name, format!("cell {cell} holds no blocks")))
        }
    }
}
