//! Filling segments.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use holdfast_vault_format::container::{Keyring, Kind, Sealer};
use holdfast_vault_format::segment::{CellBlocks, CellEntry, CellKind, Directory, encode_table};
use holdfast_vault_format::{Codec, Extent, cell_hash};

use crate::VaultError;
use crate::buffer::Buffers;
use crate::segment_id::SegmentId;

/// A segment is full at so many stored bytes.
pub(crate) const SEGMENT_BYTES: usize = 32 << 20;

/// It is also full when directory and table take so many bytes: whoever looks for blocks reads them whole.
const METADATA_BYTES: usize = 2 << 20;

/// A cell in the directory.
const ENTRY_BYTES: usize = 44;

/// A segment that is being filled, in memory.
pub(crate) struct SegmentWriter {
    pub(crate) id: SegmentId,
    sealer: Sealer,
    buffers: Arc<Buffers>,
    /// Where the segment begins in its buffer.
    start: usize,
    directory: Directory,
    /// One entry per cell, empty for meta cells.
    table: Vec<CellBlocks>,
    /// What directory and table will take, about.
    metadata_len: usize,
}

/// A segment that is ready to be stored.
pub(crate) struct SealedSegment {
    pub(crate) id: SegmentId,
    pub(crate) bytes: Bytes,
    pub(crate) root: [u8; 32],
    /// Of its data cells.
    pub(crate) hashes: Vec<[u8; 32]>,
}

impl SegmentWriter {
    pub(crate) fn new(
        ring: &Keyring,
        id: SegmentId,
        snapshot: Uuid,
        disks: Vec<String>,
        buffers: &Arc<Buffers>,
    ) -> Result<Self, VaultError> {
        let buffer = buffers.take(SEGMENT_BYTES + 2 * METADATA_BYTES);
        let start = buffer.len();
        let sealer =
            Sealer::new(ring, Kind::Segment, &id.name(), rand::random(), buffer).map_err(VaultError::Seal)?;
        let directory = Directory { snapshot, disks, cells: Vec::new() };
        let buffers = Arc::clone(buffers);
        Ok(Self { id, sealer, buffers, start, directory, table: Vec::new(), metadata_len: 0 })
    }

    /// What deltas will name the segment by, if no more data comes.
    pub(crate) fn root(&self) -> [u8; 32] {
        self.directory.root()
    }

    /// Counts directory and table as well: very compressible disks and scattered zeros have more of those than of data.
    pub(crate) fn is_full(&self) -> bool {
        self.metadata_len >= METADATA_BYTES || self.sealer.stored_len() + self.metadata_len >= SEGMENT_BYTES
    }

    /// The blocks of the cells so far; empty for meta cells.
    pub(crate) fn table(&self) -> &[CellBlocks] {
        &self.table
    }

    /// Appends a data cell and answers its number.
    pub(crate) fn data(
        &mut self,
        entry: DataCell,
        blocks: CellBlocks,
        data: &[u8],
    ) -> Result<u32, VaultError> {
        self.metadata_len += table_len(&blocks);
        self.table.push(blocks);
        let DataCell { disk, codec, plain_len, hash } = entry;
        self.append(CellEntry { kind: CellKind::Data { disk, codec }, plain_len, stored_len: 0, hash }, data)
    }

    /// Appends what stands for a cell that is stored elsewhere (`place`: an encoded `CellRef`), and answers its number.
    pub(crate) fn known(
        &mut self,
        disk: u32,
        plain_len: u32,
        hash: [u8; 32],
        blocks: CellBlocks,
        place: &[u8],
    ) -> Result<u32, VaultError> {
        self.metadata_len += table_len(&blocks);
        self.table.push(blocks);
        self.append(CellEntry { kind: CellKind::Known { disk }, plain_len, stored_len: 0, hash }, place)
    }

    /// Appends extents of zeros.
    pub(crate) fn zero(&mut self, disk: u32, extents: Vec<Extent>) -> Result<u32, VaultError> {
        let blocks = CellBlocks { extents, hashes: Vec::new() };
        self.metadata_len += table_len(&blocks);
        self.table.push(blocks);
        self.append(
            CellEntry { kind: CellKind::Zero { disk }, plain_len: 0, stored_len: 0, hash: cell_hash(&[]) },
            &[],
        )
    }

    /// Appends a part of a delta and answers its number and hash.
    pub(crate) fn meta(&mut self, data: &[u8]) -> Result<(u32, [u8; 32]), VaultError> {
        let hash = cell_hash(data);
        let plain_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.table.push(CellBlocks::default());
        let cell = self.append(CellEntry { kind: CellKind::Meta, plain_len, stored_len: 0, hash }, data)?;
        Ok((cell, hash))
    }

    /// Appends what is left of a cell of another generation.
    pub(crate) fn left(&mut self, entry: CellEntry, data: &[u8]) -> Result<(), VaultError> {
        self.table.push(CellBlocks::default());
        self.append(entry, data).map(drop)
    }

    fn append(&mut self, mut entry: CellEntry, data: &[u8]) -> Result<u32, VaultError> {
        let number = u32::try_from(self.directory.cells.len()).unwrap_or(u32::MAX);
        entry.stored_len =
            self.sealer.cell(entry.codec_byte(), entry.plain_len, data).map_err(VaultError::Seal)?;
        self.directory.cells.push(entry);
        self.metadata_len += ENTRY_BYTES;
        Ok(number)
    }

    pub(crate) fn finish(self) -> Result<SealedSegment, VaultError> {
        let buffer = self
            .sealer
            .finish(&encode_table(&self.table), &self.directory.encode())
            .map_err(VaultError::Seal)?;
        let bytes = self.buffers.lend(buffer, self.start);
        let root = self.directory.root();
        Ok(SealedSegment { id: self.id, bytes, root, hashes: data_hashes(&self.directory).collect() })
    }
}

/// The hashes of a segment's data cells.
pub(crate) fn data_hashes(directory: &Directory) -> impl Iterator<Item = [u8; 32]> {
    directory.cells.iter().filter(|cell| matches!(cell.kind, CellKind::Data { .. })).map(|cell| cell.hash)
}

/// At most so many bytes are these blocks in the table.
fn table_len(blocks: &CellBlocks) -> usize {
    blocks.extents.len() * 12 + blocks.hashes.len() * 8 + 5
}

/// A data cell as the directory will have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataCell {
    pub(crate) disk: u32,
    pub(crate) codec: Codec,
    pub(crate) plain_len: u32,
    pub(crate) hash: [u8; 32],
}
