//! What agents send to the gateway: frames are read and pushed as by the gateway. What was taken is in the block map
//! and nothing else is.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the gateway's own files")]

mod error;
mod wire;

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use futures::TryStreamExt as _;
use holdfast_fuzz::sample::{begin, plain, request};
use holdfast_fuzz::vault::{block_on, open};
use holdfast_proto::v1;
use holdfast_vault_engine::{
    BLOCK_SIZE, Backup, BlockHasher, Extent, MapBlocks, MapLayer, NewCell, decode_cell, encode_cell,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

const BLOCKS: u64 = 40;

/// What the vault must know of a disk: hashes by block.
type Model = BTreeMap<u64, u64>;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let frames = if mode & 1 == 0 { encoded_frames(data) } else { made_frames(data) };
    let (_store, vault) = open(Vec::new());
    block_on(async {
        let backup = begin(&vault, request(1, BLOCKS)).await;
        let mut models = [Model::new(), Model::new()];
        for frame in frames {
            push(&backup, frame, &mut models).await;
        }
        backup.flush().await.expect("memory stores everything");
        for (disk, model) in ["a", "b"].iter().zip(&models) {
            assert_eq!(map(&backup, disk).await, *model, "disk {disk}");
        }
    });
});

async fn push(backup: &Backup, frame: v1::CellFrame, models: &mut [Model; 2]) {
    let Ok(frame) = wire::read_frame(frame) else { return };
    let (cells, zeros) = (frame.cells.clone(), frame.zeros.clone());
    match backup.push(&frame.disk, frame.cells, frame.zeros).await {
        Err(error) => assert!(error.is_invalid_input(), "a bad frame is the agent's fault: {error:?}"),
        Ok(_) => {
            let model = match frame.disk.as_str() {
                "a" => &mut models[0],
                "b" => &mut models[1],
                other => panic!("disk {other} was taken"),
            };
            let key = backup.disk_base(&frame.disk).expect("it is a disk").block_hash_key;
            lay(model, &BlockHasher::new(&key), &cells, &zeros);
        }
    }
}

/// Lays what was taken over what was there: cells first, then zeros.
fn lay(model: &mut Model, hasher: &BlockHasher, cells: &[NewCell], zeros: &[Extent]) {
    for cell in cells {
        let plain =
            decode_cell(cell.codec, cell.plain_bytes, &cell.data).expect("a cell that was taken decodes");
        let hashes: Vec<u64> = plain.chunks(BLOCK_SIZE).map(|block| hasher.hash(block)).collect();
        assert_eq!(blocks(&cell.extents).len(), hashes.len(), "a cell has its blocks");
        model.extend(blocks(&cell.extents).into_iter().zip(hashes));
    }
    model.extend(blocks(zeros).into_iter().map(|block| (block, 0)));
}

/// The blocks of extents that were taken: ascending, on the disk.
fn blocks(extents: &[Extent]) -> Vec<u64> {
    let blocks: Vec<u64> = extents
        .iter()
        .flat_map(|extent| {
            let end = extent.end().expect("extents end");
            assert!(end <= BLOCKS && extent.block_count > 0, "extents lie on the disk");
            extent.first_block..end
        })
        .collect();
    assert!(blocks.is_sorted_by(|a, b| a < b), "extents ascend");
    blocks
}

async fn map(backup: &Backup, disk: &str) -> Model {
    let runs = backup.read_map(disk, MapLayer::Overlay).await.expect("it is a disk");
    let runs: Vec<_> = runs.try_collect().await.expect("what was stored reads");
    let mut model = Model::new();
    for run in runs {
        match run.blocks {
            MapBlocks::Zero(count) => model.extend((0..count).map(|block| (run.first_block + block, 0))),
            MapBlocks::Hashes(hashes) => {
                let hashes = hashes.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash));
                model.extend((run.first_block..).zip(hashes));
            }
        }
    }
    model
}

/// Frames one after the other, each with its length in front.
fn encoded_frames(mut data: &[u8]) -> Vec<v1::CellFrame> {
    let mut frames = Vec::new();
    while let Ok(frame) = v1::CellFrame::decode_length_delimited(&mut data)
        && frames.len() < 8
        && !data.is_empty()
    {
        frames.push(frame);
    }
    frames
}

/// Frames that are nearly right.
#[derive(Arbitrary, Debug)]
struct Made {
    disk: u8,
    cells: Vec<MadeCell>,
    zeros: Vec<(u8, u8)>,
}

#[derive(Arbitrary, Debug)]
struct MadeCell {
    extents: Vec<(u8, u8)>,
    fill: u8,
    codec: u8,
    lie: u8,
    edit: (u8, u8),
}

fn made_frames(data: &[u8]) -> Vec<v1::CellFrame> {
    let mut u = Unstructured::new(data);
    let mut frames = Vec::new();
    while frames.len() < 8
        && !u.is_empty()
        && let Ok(made) = Made::arbitrary(&mut u)
    {
        frames.push(v1::CellFrame {
            transfer_id: String::new(),
            frame: 1,
            disk_name: ["a", "b", "c", "a"][usize::from(made.disk & 3)].to_owned(),
            cells: made.cells.iter().take(4).map(made_cell).collect(),
            zero_extents: extents(&made.zeros),
        });
    }
    frames
}

fn made_cell(made: &MadeCell) -> v1::Cell {
    let extents = extents(&made.extents);
    let blocks =
        extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.block_count)).clamp(1, 33);
    let plain = plain(blocks, made.fill);
    let (codec, mut data) = encode_cell(plain.clone(), 1);
    let mut codec = v1::Codec::try_from(codec as i32 + 1).expect("two codecs");
    if made.codec == 1 {
        (codec, data) = (v1::Codec::Raw, plain.clone());
    }
    let mut plain_bytes = u32::try_from(plain.len()).expect("few blocks");
    match made.lie {
        1 => plain_bytes += 4096,
        2 => plain_bytes -= 1,
        3 => data.truncate(usize::from(made.edit.0)),
        4 => data.extend_from_slice(&[made.edit.1; 9]),
        5 => {
            let at = usize::from(made.edit.0) % data.len();
            data[at] ^= made.edit.1;
        }
        6 => codec = v1::Codec::Unspecified,
        _ => {}
    }
    v1::Cell { codec: codec.into(), plain_bytes, extents, data: data.into() }
}

/// Gaps and lengths; the largest stand for what no disk has.
fn extents(made: &[(u8, u8)]) -> Vec<v1::Extent> {
    let wide =
        |value: u8| if value >= 0xf8 { u64::MAX - u64::from(value - 0xf8) } else { u64::from(value & 31) };
    let mut at = 0_u64;
    let extent = |&(gap, count): &(u8, u8)| {
        let extent = v1::Extent { first_block: at.wrapping_add(wide(gap)), block_count: wide(count) };
        at = extent.first_block.wrapping_add(extent.block_count);
        extent
    };
    made.iter().take(40).map(extent).collect()
}
