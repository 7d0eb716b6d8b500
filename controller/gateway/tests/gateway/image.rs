//! Disks, and the frames that carry them.

use std::borrow::Cow;

use holdfast_proto::v1::{Cell, CellFrame, Codec, Extent};
use holdfast_vault_engine::{BLOCK_SIZE, BlockHasher, encode_cell};

/// Blocks of a cell.
const CELL: usize = 32;
/// Cells of a frame: 1 MiB.
const FRAME: usize = 8;

/// Deterministic bytes that do not compress and are nowhere zero for long.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A disk's blocks with their numbers; the last one is padded.
pub(crate) fn blocks(bytes: &[u8]) -> impl Iterator<Item = (u64, Cow<'_, [u8]>)> {
    (0..).zip(bytes.chunks(BLOCK_SIZE).map(|block| {
        if block.len() == BLOCK_SIZE {
            return Cow::Borrowed(block);
        }
        let mut padded = block.to_vec();
        padded.resize(BLOCK_SIZE, 0);
        Cow::Owned(padded)
    }))
}

/// What a disk's map is to say.
pub(crate) fn hashes(key: &[u8], bytes: &[u8]) -> std::collections::BTreeMap<u64, u64> {
    let hasher = BlockHasher::new(key.try_into().unwrap());
    blocks(bytes).map(|(number, block)| (number, hasher.hash(&block))).collect()
}

/// Frames that carry these blocks, zero ones as extents.
pub(crate) fn frames<'b>(
    transfer: &str,
    disk: &str,
    blocks: impl Iterator<Item = (u64, Cow<'b, [u8]>)>,
) -> Vec<CellFrame> {
    let (zeros, data): (Vec<_>, Vec<_>) = blocks.partition(|(_, block)| **block == [0; BLOCK_SIZE]);
    let cells: Vec<Cell> = data.chunks(CELL).map(cell).collect();
    let mut frames: Vec<CellFrame> =
        cells.chunks(FRAME).map(|cells| frame(transfer, disk, cells.to_vec())).collect();
    let mut zero_extents: Vec<Extent> = Vec::new();
    zeros.iter().for_each(|(number, _)| extend(&mut zero_extents, *number));
    if !zero_extents.is_empty() {
        frames.push(CellFrame { zero_extents, ..frame(transfer, disk, Vec::new()) });
    }
    (1..).zip(&mut frames).for_each(|(number, frame)| frame.frame = number);
    frames
}

pub(crate) fn frame(transfer: &str, disk: &str, cells: Vec<Cell>) -> CellFrame {
    CellFrame {
        transfer_id: transfer.to_owned(),
        frame: 1,
        disk_name: disk.to_owned(),
        cells,
        zero_extents: Vec::new(),
    }
}

fn cell(blocks: &[(u64, Cow<'_, [u8]>)]) -> Cell {
    let mut extents = Vec::new();
    blocks.iter().for_each(|(number, _)| extend(&mut extents, *number));
    let plain = blocks.iter().map(|(_, block)| &**block).collect::<Vec<_>>().concat();
    encoded(&plain, extents)
}

pub(crate) fn encoded(plain: &[u8], extents: Vec<Extent>) -> Cell {
    let (codec, data) = encode_cell(plain, 1);
    let codec = match codec {
        holdfast_vault_engine::Codec::Raw => Codec::Raw,
        holdfast_vault_engine::Codec::Zstd => Codec::Zstd,
    };
    Cell { codec: codec.into(), plain_bytes: u32::try_from(plain.len()).unwrap(), extents, data: data.into() }
}

pub(crate) fn extent(first_block: u64, block_count: u64) -> Extent {
    Extent { first_block, block_count }
}

fn extend(extents: &mut Vec<Extent>, number: u64) {
    match extents.last_mut() {
        Some(last) if last.first_block + last.block_count == number => last.block_count += 1,
        _ => extents.push(extent(number, 1)),
    }
}

pub(crate) fn payload(frames: &[CellFrame]) -> u64 {
    frames.iter().flat_map(|frame| &frame.cells).map(|cell| cell.data.len() as u64).sum()
}
