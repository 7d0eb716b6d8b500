//! Frames of a disk: nothing of them is believed.

use holdfast_proto::v1::{self, DiskCells, RestoredCell};
use holdfast_vault_format::{BLOCK_SIZE, Codec, cell_hash, decode_cell_in};

use super::target::Target;
use crate::error::CliError;

/// Decodes and writes one frame; answers how many bytes of the disk it was.
pub(crate) fn write(target: &Target, cells: &DiskCells) -> Result<u64, CliError> {
    let (mut blocks, mut memory) = (0, Vec::new());
    for extent in &cells.zero_extents {
        target.zeros(extent.first_block, extent.block_count)?;
        blocks += extent.block_count;
    }
    for cell in &cells.cells {
        let plain = decode(cell, &mut memory)?;
        for piece in &cell.pieces {
            let extent = piece.extent.as_ref().ok_or_else(|| bad_stream("a piece without its place"))?;
            let start = u64::from(piece.cell_block) * BLOCK_SIZE as u64;
            let bytes = extent
                .block_count
                .checked_mul(BLOCK_SIZE as u64)
                .and_then(|len| {
                    Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(len)?).ok()?)
                })
                .and_then(|range| plain.get(range))
                .ok_or_else(|| bad_stream("a piece outside its cell"))?;
            target.write(extent.first_block, bytes)?;
            blocks += extent.block_count;
        }
    }
    Ok(blocks * BLOCK_SIZE as u64)
}

fn decode<'a>(cell: &'a RestoredCell, memory: &'a mut Vec<u8>) -> Result<&'a [u8], CliError> {
    let codec = match cell.codec() {
        v1::Codec::Raw => Codec::Raw,
        v1::Codec::Zstd => Codec::Zstd,
        v1::Codec::Unspecified => return Err(bad_stream("a cell with an unknown codec")),
    };
    let plain = decode_cell_in(codec, cell.plain_bytes, &cell.data, memory)
        .map_err(|error| bad_stream(&error.to_string()))?;
    if cell_hash(plain) == cell.plain_hash.as_slice() {
        Ok(plain)
    } else {
        Err(bad_stream("a cell does not match its hash"))
    }
}

pub(super) fn bad_stream(detail: &str) -> CliError {
    CliError::BadStream { detail: detail.to_owned() }
}
