//! The directory of a segment: which cells it has, where they are stored, and what opens them.

mod cache;

use std::ops::Range;

use holdfast_vault_format::container::{Layout, Opener};
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::segment::{CellBlocks, CellEntry, CellKind, Directory, decode_table};
use holdfast_vault_format::{BLOCK_SIZE, DecodeError};

use crate::VaultError;
use crate::segment_id::SegmentId;

pub(crate) use cache::{Cache, Replaced};

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

impl Segment {
    /// With its directory as it is stored.
    pub(crate) fn open(
        id: SegmentId,
        size: u64,
        opener: Opener,
        layout: &Layout,
        body: Vec<u8>,
    ) -> Result<Self, DecodeError> {
        let directory = Directory::decode(&opener.body(body)?)?;
        let offsets = directory.offsets();
        if directory.cells.len() as u64 != u64::from(layout.cells) || offsets.last() != Some(&layout.table_at)
        {
            return Err(DecodeError::OutOfRange { what: "the directory" });
        }
        Ok(Self {
            id,
            name: id.name(),
            root: directory.root(),
            directory,
            size,
            offsets,
            opener,
            table_at: layout.table_at,
            table_len: layout.table_len,
        })
    }

    /// Where its table is stored.
    pub(crate) fn table_range(&self) -> Range<u64> {
        self.table_at..self.table_at + u64::from(self.table_len)
    }

    /// Which blocks its cells hold, by its table as it is stored.
    pub(crate) fn open_table(&self, stored: Vec<u8>) -> Result<Vec<CellBlocks>, VaultError> {
        let damaged = |source| VaultError::damaged(&self.name, source);
        let table = self.opener.table(stored).map_err(damaged)?;
        decode_table(&table, &self.directory).map_err(damaged)
    }

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
