//! What an agent sends is believed only after it was decoded and counted.

use bytes::Bytes;

use holdfast_vault_format::{
    BLOCK_SIZE, BlockHasher, Codec, Extent, MAX_CELL_BLOCKS, cell_hash, decode_cell_in,
};

use crate::VaultError;

/// A cell as it came from an agent.
#[derive(Clone, Debug)]
pub struct NewCell {
    pub codec: Codec,
    pub plain_bytes: u32,
    pub extents: Vec<Extent>,
    pub data: Bytes,
}

/// A cell that was decoded and hashed.
pub(super) struct CheckedCell {
    pub(super) cell: NewCell,
    pub(super) hash: [u8; 32],
    pub(super) hashes: Vec<u64>,
}

/// Extents must be in block order, without overlap, within a disk of so many blocks.
pub(super) fn check_extents(extents: &[Extent], blocks: u64) -> Result<(), VaultError> {
    let mut at = 0;
    for extent in extents {
        let end =
            extent.end().filter(|end| *end <= blocks && extent.first_block >= at && extent.block_count > 0);
        at = end.ok_or_else(|| VaultError::BadInput {
            detail: format!("{extent:?} is out of order or outside the disk of {blocks} blocks"),
        })?;
    }
    Ok(())
}

/// Decodes and hashes cells, one after the other in the same memory.
///
/// # Errors
/// If one of them is not what it is said to be.
pub(super) fn check_cells(hasher: &BlockHasher, cells: Vec<NewCell>) -> Result<Vec<CheckedCell>, VaultError> {
    let mut memory = Vec::new();
    cells.into_iter().map(|cell| check_cell(hasher, cell, &mut memory)).collect()
}

fn check_cell(hasher: &BlockHasher, cell: NewCell, memory: &mut Vec<u8>) -> Result<CheckedCell, VaultError> {
    let blocks: u64 = cell.extents.iter().map(|extent| extent.block_count).sum();
    if cell.extents.len() > MAX_CELL_BLOCKS
        || blocks.checked_mul(BLOCK_SIZE as u64) != Some(u64::from(cell.plain_bytes))
    {
        return Err(VaultError::BadInput {
            detail: "a cell's extents do not add up to its length".to_owned(),
        });
    }
    let plain = decode_cell_in(cell.codec, cell.plain_bytes, &cell.data, memory)
        .map_err(|source| VaultError::BadCell { source })?;
    let hashes = plain.chunks_exact(BLOCK_SIZE).map(|block| hasher.hash(block)).collect();
    Ok(CheckedCell { hash: cell_hash(plain), hashes, cell })
}
