//! Reading segments.

mod cache;
mod cells;
mod copies;
mod listed;

use std::ops::Range;

use uuid::Uuid;

use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::container::{FOOTER_LEN, HEADER_LEN, Kind, Opener};
use holdfast_vault_format::delta::SegmentRef;
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::segment::{CellBlocks, CellEntry, CellKind, Directory, decode_table};
use holdfast_vault_format::{BLOCK_SIZE, DecodeError};

use crate::{Vault, VaultError, name, object};

pub(crate) use cache::{Cache, Replaced};
pub(crate) use cells::StoredCells;
pub(crate) use copies::Copies;
pub(crate) use listed::Listed;

/// Read with the footer in one request; most directories fit.
const TAIL: u64 = 64 << 10;
/// Stored bytes that are read by one request where all are.
const CHUNK: u64 = 4 << 20;
/// A directory beside its cells.
const SEGMENT_OVERHEAD: usize = 2 << 10;

/// A segment whose directory was read and authenticated.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) name: String,
    pub(crate) directory: Directory,
    pub(crate) root: [u8; 32],
    pub(crate) size: u64,
    offsets: Vec<u64>,
    opener: Opener,
    table_at: u64,
    table_len: u32,
}

/// A segment, whatever its generation: machine, backup, number.
pub(crate) type AnyGeneration = (Uuid, u64, u32);

/// Which segment: backup, number, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    pub(crate) machine: Uuid,
    pub(crate) seq: u64,
    pub(crate) number: u32,
    pub(crate) generation: u32,
}

impl SegmentId {
    /// A segment that a delta of this machine names.
    pub(crate) fn named(machine: Uuid, named: &SegmentRef) -> Self {
        let SegmentRef { lender, seq, number, generation, .. } = *named;
        Self { machine: lender.unwrap_or(machine), seq, number, generation }
    }

    /// The one that an object's name names.
    #[must_use]
    pub fn of_name(object: &str) -> Option<Self> {
        let path = object_store::path::Path::from(object);
        let machine = path.parts().nth(1)?.as_ref().parse().ok()?;
        let (number, generation) = name::segment_of(&path).filter(|_| name::is_segment(object))?;
        Some(Self { machine, seq: name::seq_folder_of(&path)?, number, generation })
    }

    /// Whose backup wrote it.
    #[must_use]
    pub fn machine(&self) -> Uuid {
        self.machine
    }

    pub(crate) fn any_generation(&self) -> AnyGeneration {
        (self.machine, self.seq, self.number)
    }

    /// Of its object.
    #[must_use]
    pub fn name(&self) -> String {
        name::segment(self.machine, self.seq, self.number, self.generation)
    }
}

impl From<CondemnedSegment> for SegmentId {
    fn from(CondemnedSegment { machine, seq, number, generation }: CondemnedSegment) -> Self {
        Self { machine, seq, number, generation }
    }
}

impl From<SegmentId> for CondemnedSegment {
    fn from(SegmentId { machine, seq, number, generation }: SegmentId) -> Self {
        Self { machine, seq, number, generation }
    }
}

impl Vault {
    /// The generations of a segment that are there, from this one on, ascending.
    pub(crate) async fn generations(&self, id: SegmentId) -> Result<Vec<SegmentId>, VaultError> {
        Listed::default().copies(self, id).await
    }

    /// Reads the directory of exactly this segment.
    pub(crate) async fn read_segment(&self, id: SegmentId) -> Result<Segment, VaultError> {
        let name = id.name();
        let damaged = |source| VaultError::damaged(&name, source);
        let (tail, size) = object::read_tail(self.store(), &name, TAIL).await?;
        if size < (HEADER_LEN + FOOTER_LEN) as u64 || tail.len() < FOOTER_LEN {
            return Err(damaged(DecodeError::Truncated { what: "the segment" }));
        }
        // A small segment has come whole.
        let header = if tail.len() as u64 == size {
            tail.slice(..HEADER_LEN)
        } else {
            object::read_range(self.store(), &name, 0..HEADER_LEN as u64).await?
        };
        let opener = Opener::new(&self.inner.ring, &name, &header).map_err(damaged)?;
        if opener.kind != Kind::Segment {
            return Err(VaultError::mismatch(&name, "it is of another kind"));
        }
        let layout = opener.footer(&tail[tail.len() - FOOTER_LEN..], size).map_err(damaged)?;
        let tail_at = size - tail.len() as u64;
        let body_end = layout.body_at + u64::from(layout.body_len);
        let body = if layout.body_at >= tail_at {
            let offset = |at: u64| usize::try_from(at - tail_at).unwrap_or(usize::MAX);
            tail.slice(offset(layout.body_at)..offset(body_end))
        } else {
            object::read_range(self.store(), &name, layout.body_at..body_end).await?
        };
        let body = opener.body(body.to_vec()).map_err(damaged)?;
        let directory = Directory::decode(&body).map_err(damaged)?;
        let offsets = directory.offsets();
        if directory.cells.len() as u64 != u64::from(layout.cells) || offsets.last() != Some(&layout.table_at)
        {
            return Err(damaged(DecodeError::OutOfRange { what: "the directory" }));
        }
        Ok(Segment {
            id,
            root: directory.root(),
            directory,
            size,
            offsets,
            opener,
            table_at: layout.table_at,
            table_len: layout.table_len,
            name,
        })
    }

    /// Which blocks the cells of a segment hold.
    pub(crate) async fn segment_table(&self, segment: &Segment) -> Result<Vec<CellBlocks>, VaultError> {
        let range = segment.table_at..segment.table_at + u64::from(segment.table_len);
        let stored = object::read_range(self.store(), &segment.name, range).await?;
        let damaged = |source| VaultError::damaged(&segment.name, source);
        let table = segment.opener.table(stored.to_vec()).map_err(damaged)?;
        decode_table(&table, &segment.directory).map_err(damaged)
    }
}

impl Segment {
    /// Bytes that it takes in memory, about.
    fn memory(&self) -> usize {
        self.directory.cells.len() * (size_of::<CellEntry>() + size_of::<u64>()) + SEGMENT_OVERHEAD
    }

    /// Its cells in parts that can be read by one request each.
    pub(crate) fn chunks(&self) -> Result<Vec<Range<u32>>, VaultError> {
        let count = u32::try_from(self.directory.cells.len()).unwrap_or(u32::MAX);
        let mut chunks = Vec::new();
        let mut first = 0;
        while first < count {
            let start = self.range(first)?.start;
            let mut end = first + 1;
            while end < count && self.range(end)?.end - start <= CHUNK {
                end += 1;
            }
            chunks.push(first..end);
            first = end;
        }
        Ok(chunks)
    }

    pub(crate) fn entry(&self, cell: u32) -> Result<&CellEntry, VaultError> {
        self.directory
            .cells
            .get(cell as usize)
            .ok_or_else(|| VaultError::mismatch(&self.name, format!("it has no cell {cell}")))
    }

    /// Whether it is what a collection left of another one.
    pub(crate) fn is_partial(&self) -> bool {
        self.directory.cells.iter().any(|cell| matches!(cell.kind, CellKind::Kept { .. } | CellKind::Gone))
    }

    /// Whether a cell holds these of its blocks. A part of a delta is there or not.
    pub(crate) fn holds(&self, cell: u32, blocks: Blocks) -> Result<bool, VaultError> {
        let entry = self.entry(cell)?;
        Ok(match entry.kind {
            CellKind::Data { .. } => Blocks::first(entry.plain_len as usize / BLOCK_SIZE).has_all(blocks),
            CellKind::Kept { kept, .. } => kept.has_all(blocks),
            CellKind::Meta => true,
            CellKind::Zero { .. } | CellKind::Known { .. } | CellKind::Gone => false,
        })
    }

    /// Where a cell's stored bytes are.
    pub(crate) fn range(&self, cell: u32) -> Result<Range<u64>, VaultError> {
        let at = cell as usize;
        match (self.offsets.get(at), self.offsets.get(at + 1)) {
            (Some(start), Some(end)) => Ok(*start..*end),
            _ => Err(VaultError::mismatch(&self.name, format!("it has no cell {cell}"))),
        }
    }

    /// Authenticates a cell's stored bytes where they are, and answers how many there are then; they are still encoded.
    pub(crate) fn open_cell(&self, cell: u32, stored: &mut [u8]) -> Result<usize, VaultError> {
        let entry = self.entry(cell)?;
        self.opener
            .cell_in_place(cell, entry.codec_byte(), entry.plain_len, stored)
            .map_err(|source| VaultError::damaged(&self.name, source))
    }
}
