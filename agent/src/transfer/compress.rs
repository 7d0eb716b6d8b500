//! Turns a batch of plain cells into a frame for the wire.

use holdfast_proto::v1;
use holdfast_vault_format::{Codec, Extent, encode_cell};

use super::gather::{Batch, PlainCell};

/// A frame without its transfer and number, which belong to the stream that sends it.
#[derive(Debug)]
pub(super) struct EncodedFrame {
    pub(super) frame: v1::CellFrame,
    /// Changed blocks in it, in bytes.
    pub(super) changed_bytes: u64,
    /// Compressed bytes.
    pub(super) payload_bytes: u64,
}

impl EncodedFrame {
    /// A frame that only says that the transfer goes on.
    pub(super) fn empty(disk_name: &str) -> Self {
        let frame = v1::CellFrame { disk_name: disk_name.to_owned(), ..v1::CellFrame::default() };
        Self { frame, changed_bytes: 0, payload_bytes: 0 }
    }
}

/// Compresses every cell of a batch. Takes milliseconds of processor time.
pub(super) fn encode(batch: Batch, disk_name: &str, level: i32) -> EncodedFrame {
    let cells: Vec<v1::Cell> = batch.cells.into_iter().map(|cell| encode_one(cell, level)).collect();
    let payload_bytes = cells.iter().map(|cell| cell.data.len() as u64).sum();
    let frame = v1::CellFrame {
        transfer_id: String::new(),
        frame: 0,
        disk_name: disk_name.to_owned(),
        cells,
        zero_extents: wire_extents(&batch.zeros),
    };
    EncodedFrame { frame, changed_bytes: batch.changed_bytes, payload_bytes }
}

fn encode_one(cell: PlainCell, level: i32) -> v1::Cell {
    let plain_bytes = u32::try_from(cell.data.len()).unwrap_or(u32::MAX);
    let (codec, data) = encode_cell(cell.data, level);
    let codec = match codec {
        Codec::Raw => v1::Codec::Raw,
        Codec::Zstd => v1::Codec::Zstd,
    };
    v1::Cell { codec: codec.into(), plain_bytes, extents: wire_extents(&cell.extents), data: data.into() }
}

fn wire_extents(extents: &[Extent]) -> Vec<v1::Extent> {
    extents
        .iter()
        .map(|extent| v1::Extent { first_block: extent.first_block, block_count: extent.block_count })
        .collect()
}
