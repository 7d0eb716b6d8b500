//! Turns a batch of plain cells into a frame for the wire.

use bytes::Bytes;
use holdfast_proto::v1;
use holdfast_vault_format::{Codec, Extent, encode_cell_into};

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
pub(super) fn encode(batch: &Batch, disk_name: &str, level: i32) -> EncodedFrame {
    let mut packed = Vec::with_capacity(batch.cells().map(|(_, plain)| plain.len()).sum());
    let mut ends = Vec::with_capacity(batch.cells.len());
    for (_, plain) in batch.cells() {
        let codec = encode_cell_into(plain, level, &mut packed);
        ends.push((codec, packed.len()));
    }
    let payload_bytes = packed.len() as u64;
    let (mut packed, mut at) = (Bytes::from(packed), 0);
    let cells = batch.cells.iter().zip(ends).map(|(cell, (codec, end))| {
        let data = packed.split_to(end - std::mem::replace(&mut at, end));
        wire_cell(cell, codec, data)
    });
    let frame = v1::CellFrame {
        transfer_id: String::new(),
        frame: 0,
        disk_name: disk_name.to_owned(),
        cells: cells.collect(),
        zero_extents: wire_extents(&batch.zeros),
    };
    EncodedFrame { frame, changed_bytes: batch.changed_bytes, payload_bytes }
}

fn wire_cell(cell: &PlainCell, codec: Codec, data: Bytes) -> v1::Cell {
    let codec = match codec {
        Codec::Raw => v1::Codec::Raw,
        Codec::Zstd => v1::Codec::Zstd,
    };
    let plain_bytes = u32::try_from(cell.plain_bytes).unwrap_or(u32::MAX);
    v1::Cell { codec: codec.into(), plain_bytes, extents: wire_extents(&cell.extents), data }
}

fn wire_extents(extents: &[Extent]) -> Vec<v1::Extent> {
    extents
        .iter()
        .map(|extent| v1::Extent { first_block: extent.first_block, block_count: extent.block_count })
        .collect()
}
