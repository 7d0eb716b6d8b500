//! Between messages and the engine's types. Nothing of a message is believed here.

use prost::Message as _;
use tonic::Status;

use holdfast_proto::v1;
use holdfast_vault_engine::{Codec, Extent, NewCell};

use crate::error::invalid_cell;

/// Largest frame, in bytes on the wire.
const MAX_FRAME_BYTES: usize = 3 << 20;
/// Cells of one frame: they decode to at most 128 MiB.
const MAX_CELLS: usize = 1024;
const MAX_ZERO_EXTENTS: usize = 64 << 10;

/// What a frame holds.
pub(crate) struct Frame {
    pub(crate) disk: String,
    pub(crate) cells: Vec<NewCell>,
    pub(crate) zeros: Vec<Extent>,
}

pub(crate) fn read_frame(frame: v1::CellFrame) -> Result<Frame, Status> {
    if frame.encoded_len() > MAX_FRAME_BYTES {
        return Err(invalid_cell("a frame of more than 3 MiB"));
    }
    if frame.cells.len() > MAX_CELLS || frame.zero_extents.len() > MAX_ZERO_EXTENTS {
        return Err(invalid_cell("a frame with too many cells or extents"));
    }
    let cells = frame.cells.into_iter().map(read_cell).collect::<Result<_, _>>()?;
    Ok(Frame { disk: frame.disk_name, cells, zeros: frame.zero_extents.iter().map(read_extent).collect() })
}

fn read_cell(cell: v1::Cell) -> Result<NewCell, Status> {
    let codec = match cell.codec() {
        v1::Codec::Raw => Codec::Raw,
        v1::Codec::Zstd => Codec::Zstd,
        v1::Codec::Unspecified => return Err(invalid_cell("a cell with an unknown codec")),
    };
    let extents = cell.extents.iter().map(read_extent).collect();
    Ok(NewCell { codec, plain_bytes: cell.plain_bytes, extents, data: cell.data })
}

fn read_extent(extent: &v1::Extent) -> Extent {
    Extent { first_block: extent.first_block, block_count: extent.block_count }
}

pub(crate) fn extent(extent: Extent) -> v1::Extent {
    v1::Extent { first_block: extent.first_block, block_count: extent.block_count }
}

pub(crate) fn codec(codec: Codec) -> v1::Codec {
    match codec {
        Codec::Raw => v1::Codec::Raw,
        Codec::Zstd => v1::Codec::Zstd,
    }
}
