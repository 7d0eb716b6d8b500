//! A segment's body (its directory of cells) and table (which blocks they hold).

use uuid::Uuid;

use crate::block::{BLOCK_SIZE, Extent};
use crate::bytes::{DecodeError, Reader, Writer};
use crate::cell::{Codec, MAX_CELL_BLOCKS, MAX_CELL_BYTES};
use crate::container::{HEADER_LEN, TAG_LEN};
use crate::kept::Blocks;

/// Most plain bytes in a meta cell.
pub const MAX_META_BYTES: usize = 1 << 20;
/// Most extents in one zero cell.
pub const MAX_ZERO_EXTENTS: usize = 4096;
const MAX_DISKS: usize = 1024;
const MAX_NAME: usize = 64;

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellKind {
    /// Blocks of the disk with this index in [`Directory::disks`].
    Data { disk: u32, codec: Codec },
    /// Blocks of zeros: extents in the table, no bytes.
    Zero { disk: u32 },
    /// A part of a delta, as it is.
    Meta,
    /// Blocks of the disk with this index whose bytes were stored before: the cell's own bytes say where, as a [`CellRef`].
    /// Length and hash are those of the blocks.
    Known { disk: u32 },
    /// What a collection left of a data cell: blocks that points need. Length and hash are those of the whole cell.
    Kept { codec: Codec, kept: Blocks },
    /// What a collection left of any other cell: nothing, but its number.
    Gone,
}

/// A data cell of any segment in the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellRef {
    pub machine: Uuid,
    pub seq: u64,
    pub number: u32,
    pub generation: u32,
    /// Of the segment.
    pub root: [u8; 32],
    pub cell: u32,
}

impl CellRef {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uuid(self.machine);
        out.varint(self.seq);
        out.varint(u64::from(self.number));
        out.varint(u64::from(self.generation));
        out.raw(&self.root);
        out.varint(u64::from(self.cell));
        out.into_bytes()
    }

    /// # Errors
    /// If the bytes are no reference, or more than one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "a known cell";
        let mut reader = Reader::new(bytes);
        let decoded = Self {
            machine: reader.uuid(WHAT)?,
            seq: reader.varint(WHAT)?,
            number: small(&mut reader, WHAT)?,
            generation: small(&mut reader, WHAT)?,
            root: reader.array(WHAT)?,
            cell: small(&mut reader, WHAT)?,
        };
        reader.finish()?;
        Ok(decoded)
    }
}

/// One cell by the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellEntry {
    pub kind: CellKind,
    pub plain_len: u32,
    /// Sealed length.
    pub stored_len: u32,
    /// BLAKE3 of the plain bytes.
    pub hash: [u8; 32],
}

impl CellEntry {
    /// The codec's number in the part that is authenticated.
    #[must_use]
    pub fn codec_byte(&self) -> u8 {
        match self.kind {
            CellKind::Data { codec: Codec::Raw, .. } => 1,
            CellKind::Data { codec: Codec::Zstd, .. } => 2,
            CellKind::Zero { .. } => 3,
            CellKind::Meta => 4,
            CellKind::Known { .. } => 5,
            CellKind::Kept { codec: Codec::Raw, .. } => 6,
            CellKind::Kept { codec: Codec::Zstd, .. } => 7,
            CellKind::Gone => 8,
        }
    }
}

/// The body of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The snapshot that the blocks were read from.
    pub snapshot: Uuid,
    /// Names of the disks that the cells refer to.
    pub disks: Vec<String>,
    pub cells: Vec<CellEntry>,
}

impl Directory {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uuid(self.snapshot);
        out.count(self.disks.len());
        for disk in &self.disks {
            out.string(disk);
        }
        out.count(self.cells.len());
        for cell in &self.cells {
            out.u8(cell.codec_byte());
            match cell.kind {
                CellKind::Data { disk, .. } | CellKind::Zero { disk } | CellKind::Known { disk } => {
                    out.varint(u64::from(disk));
                }
                CellKind::Kept { kept, .. } => out.varint(u64::from(kept.0)),
                CellKind::Meta | CellKind::Gone => {}
            }
            out.varint(u64::from(cell.plain_len));
            out.varint(u64::from(cell.stored_len));
            out.raw(&cell.hash);
        }
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let snapshot = reader.uuid("the snapshot id")?;
        let disk_count = reader.count(1, "the disks")?;
        if disk_count > MAX_DISKS {
            return Err(DecodeError::OutOfRange { what: "the disks" });
        }
        let disks = (0..disk_count)
            .map(|_| reader.string(MAX_NAME, "a disk's name"))
            .collect::<Result<Vec<_>, _>>()?;
        let cell_count = reader.count(35, "the cells")?;
        let mut cells = Vec::with_capacity(cell_count);
        for _ in 0..cell_count {
            cells.push(decode_cell_entry(&mut reader, disks.len())?);
        }
        reader.finish()?;
        Ok(Self { snapshot, disks, cells })
    }

    /// Where each cell starts in the object; one more entry for where they end.
    #[must_use]
    pub fn offsets(&self) -> Vec<u64> {
        let mut at = HEADER_LEN as u64;
        let mut offsets = Vec::with_capacity(self.cells.len() + 1);
        for cell in &self.cells {
            offsets.push(at);
            at += u64::from(cell.stored_len);
        }
        offsets.push(at);
        offsets
    }

    /// What a delta names a segment by: the data cells with their numbers, lengths and hashes, whatever is left of them. Meta cells are left out, since a
    /// delta may lie in the segment that it names; it is committed to by its own hash. Known cells are: a delta names the segment
    /// that has their bytes.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("Holdfast vault v1 segment root");
        for (number, cell) in (0_u32..).zip(&self.cells) {
            if let CellKind::Data { .. } | CellKind::Kept { .. } = cell.kind {
                hasher.update(&number.to_le_bytes());
                hasher.update(&cell.plain_len.to_le_bytes());
                hasher.update(&cell.hash);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

fn decode_cell_entry(reader: &mut Reader<'_>, disks: usize) -> Result<CellEntry, DecodeError> {
    let bad = |what| Err(DecodeError::OutOfRange { what });
    let kind_byte = reader.u8("a cell's kind")?;
    let (mut disk, mut kept) = (0, Blocks::default());
    match kind_byte {
        4 | 8 => {}
        6 | 7 => kept = Blocks(small(reader, "a cell's blocks")?),
        _ => {
            disk = small(reader, "a cell's disk")?;
            if disk as usize >= disks {
                return bad("a cell's disk");
            }
        }
    }
    let kind = match kind_byte {
        1 => CellKind::Data { disk, codec: Codec::Raw },
        2 => CellKind::Data { disk, codec: Codec::Zstd },
        3 => CellKind::Zero { disk },
        4 => CellKind::Meta,
        5 => CellKind::Known { disk },
        6 => CellKind::Kept { codec: Codec::Raw, kept },
        7 => CellKind::Kept { codec: Codec::Zstd, kept },
        8 => CellKind::Gone,
        _ => return bad("a cell's kind"),
    };
    let plain_len = small(reader, "a cell's length")?;
    let stored_len = small(reader, "a cell's stored length")?;
    let hash = reader.array("a cell's hash")?;
    let plain = plain_len as usize;
    let is_blocks = plain > 0 && plain <= MAX_CELL_BYTES && plain.is_multiple_of(BLOCK_SIZE);
    let fits = match kind {
        CellKind::Data { .. } | CellKind::Known { .. } => is_blocks,
        CellKind::Kept { kept, .. } => is_blocks && Blocks::first(plain / BLOCK_SIZE).has_all(kept),
        CellKind::Zero { .. } | CellKind::Gone => plain == 0,
        CellKind::Meta => plain > 0 && plain <= MAX_META_BYTES,
    };
    let stored = stored_len as usize;
    if !fits || !(TAG_LEN..=MAX_META_BYTES + TAG_LEN).contains(&stored) {
        return bad("a cell's length");
    }
    Ok(CellEntry { kind, plain_len, stored_len, hash })
}

fn small(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, DecodeError> {
    u32::try_from(reader.varint(what)?).map_err(|_| DecodeError::OutOfRange { what })
}

/// Which blocks a data, known or zero cell holds, in the order of its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellBlocks {
    pub extents: Vec<Extent>,
    /// One per block; none for zero cells.
    pub hashes: Vec<u64>,
}

impl CellKind {
    /// Whether the table says which blocks the cell holds.
    #[must_use]
    pub fn is_in_table(self) -> bool {
        matches!(self, Self::Data { .. } | Self::Zero { .. } | Self::Known { .. })
    }
}

/// Encodes a table; one entry per cell of the directory, empty for those that are not in it.
#[must_use]
pub fn encode_table(cells: &[CellBlocks]) -> Vec<u8> {
    let with_blocks = || cells.iter().filter(|cell| !cell.extents.is_empty());
    let mut out = Writer::new();
    out.count(with_blocks().count());
    for cell in with_blocks() {
        encode_extents(&mut out, &cell.extents);
        for hash in &cell.hashes {
            out.u64(*hash);
        }
    }
    out.into_bytes()
}

/// Decodes a table by the directory that it belongs to; one entry per cell, empty for those that are not in it.
pub fn decode_table(bytes: &[u8], directory: &Directory) -> Result<Vec<CellBlocks>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(1, "the table")?;
    let with_blocks = directory.cells.iter().filter(|cell| cell.kind.is_in_table()).count();
    if count != with_blocks {
        return Err(DecodeError::OutOfRange { what: "the table" });
    }
    let mut cells = Vec::with_capacity(directory.cells.len());
    for cell in &directory.cells {
        cells.push(match cell.kind {
            CellKind::Meta | CellKind::Kept { .. } | CellKind::Gone => CellBlocks::default(),
            CellKind::Zero { .. } => {
                let extents = decode_extents(&mut reader, MAX_ZERO_EXTENTS)?;
                CellBlocks { extents, hashes: Vec::new() }
            }
            CellKind::Data { .. } | CellKind::Known { .. } => {
                let extents = decode_extents(&mut reader, MAX_CELL_BLOCKS)?;
                let blocks = cell.plain_len as usize / BLOCK_SIZE;
                if extents.iter().map(|extent| extent.block_count).sum::<u64>() != blocks as u64 {
                    return Err(DecodeError::OutOfRange { what: "a cell's extents" });
                }
                let hashes =
                    (0..blocks).map(|_| reader.u64("a block's hash")).collect::<Result<Vec<_>, _>>()?;
                CellBlocks { extents, hashes }
            }
        });
    }
    reader.finish()?;
    Ok(cells)
}

fn encode_extents(out: &mut Writer, extents: &[Extent]) {
    out.count(extents.len());
    let mut at = 0;
    for extent in extents {
        out.varint(extent.first_block.wrapping_sub(at));
        out.varint(extent.block_count);
        at = extent.first_block + extent.block_count;
    }
}

fn decode_extents(reader: &mut Reader<'_>, most: usize) -> Result<Vec<Extent>, DecodeError> {
    const WHAT: &str = "an extent";
    let out_of_range = || DecodeError::OutOfRange { what: WHAT };
    let count = reader.count(2, WHAT)?;
    if count == 0 || count > most {
        return Err(out_of_range());
    }
    let mut extents = Vec::with_capacity(count);
    let mut at = 0_u64;
    for _ in 0..count {
        let first_block = at.checked_add(reader.varint(WHAT)?).ok_or_else(out_of_range)?;
        let block_count = reader.varint(WHAT)?;
        at = first_block.checked_add(block_count).ok_or_else(out_of_range)?;
        if block_count == 0 {
            return Err(out_of_range());
        }
        extents.push(Extent { first_block, block_count });
    }
    Ok(extents)
}
