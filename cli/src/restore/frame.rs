//! Frames of a disk: nothing of them is believed.

use holdfast_proto::v1::{self, DiskCells, RestoredCell};
use holdfast_restore::{Cell, Target};
use holdfast_vault_format::{BLOCK_SIZE, Codec, Extent};

use crate::error::CliError;

/// Decodes and writes one frame; answers how many bytes of the disk it was.
pub(crate) fn write(target: &Target, cells: &DiskCells) -> Result<u64, CliError> {
    let (mut blocks, mut memory) = (0, Vec::new());
    for extent in &cells.zero_extents {
        let extent = read_extent(extent);
        target.zeros(extent)?;
        blocks += extent.block_count;
    }
    for cell in &cells.cells {
        blocks += write_cell(target, cell, &mut memory)?;
    }
    Ok(blocks * BLOCK_SIZE as u64)
}

fn write_cell(target: &Target, cell: &RestoredCell, memory: &mut Vec<u8>) -> Result<u64, CliError> {
    let codec = match cell.codec() {
        v1::Codec::Raw => Codec::Raw,
        v1::Codec::Zstd => Codec::Zstd,
        v1::Codec::Unspecified => return Err(bad_stream("a cell with an unknown codec")),
    };
    let piece = |piece: &v1::Piece| Some((piece.cell_block, read_extent(piece.extent.as_ref()?)));
    let pieces: Option<Vec<_>> = cell.pieces.iter().map(piece).collect();
    let pieces = pieces.ok_or_else(|| bad_stream("a piece without its place"))?;
    let cell = Cell {
        codec,
        plain_bytes: cell.plain_bytes,
        plain_hash: &cell.plain_hash,
        data: &cell.data,
        pieces: &pieces,
    };
    Ok(target.write_cell(&cell, memory)?)
}

fn read_extent(extent: &v1::Extent) -> Extent {
    Extent { first_block: extent.first_block, block_count: extent.block_count }
}

pub(super) fn bad_stream(detail: &str) -> CliError {
    CliError::BadStream { detail: detail.to_owned() }
}
