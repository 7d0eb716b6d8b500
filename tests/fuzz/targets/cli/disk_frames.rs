//! What a controller sends to `holdfast restore`: the file is what the frames say, or there is none.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the command line's own files")]

mod client;
mod error;
mod restore;

use std::fs;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use holdfast_fuzz::sample::plain;
use holdfast_fuzz::vault::scratch;
use holdfast_proto::v1;
use holdfast_restore::{Existing, Target};
use holdfast_vault_format::{BLOCK_SIZE, Codec, cell_hash, decode_cell, encode_cell};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use restore::frame::write;

/// Larger disks are only begun.
const MAX_READ_BACK: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let (size_bytes, frames) = if mode & 1 == 0 { encoded(data) } else { made(data) };
    let path = scratch("restore").join("disk");
    let _ = fs::remove_file(&path);
    let restored = restore(&path, size_bytes, &frames);
    assert_eq!(path.exists(), restored, "the file has its name if the disk is whole");
    assert!(!path.with_extension("partial").exists(), "nothing is left behind");
    if restored && size_bytes <= MAX_READ_BACK {
        assert!(
            fs::read(&path).expect("it is there") == expected(size_bytes, &frames),
            "the disk is another"
        );
    }
});

fn restore(path: &Path, size_bytes: u64, frames: &[v1::DiskCells]) -> bool {
    let Ok(target) = Target::create(path, size_bytes, Existing::Keep) else { return false };
    frames.iter().all(|frame| write(&target, frame).is_ok()) && target.finish().is_ok()
}

/// What frames that were taken make of a disk.
fn expected(size_bytes: u64, frames: &[v1::DiskCells]) -> Vec<u8> {
    let size = usize::try_from(size_bytes).expect("it is small");
    let mut content = vec![0; size.next_multiple_of(BLOCK_SIZE)];
    for cell in frames.iter().flat_map(|frame| &frame.cells) {
        let codec = if cell.codec() == v1::Codec::Raw { Codec::Raw } else { Codec::Zstd };
        let plain = decode_cell(codec, cell.plain_bytes, &cell.data).expect("a cell that was taken decodes");
        for piece in &cell.pieces {
            let extent = piece.extent.as_ref().expect("a piece that was taken has its place");
            let bytes = |blocks: u64| usize::try_from(blocks).expect("few") * BLOCK_SIZE;
            let (at, from) = (bytes(extent.first_block), bytes(piece.cell_block.into()));
            let len = bytes(extent.block_count);
            content[at..at + len].copy_from_slice(&plain[from..from + len]);
        }
    }
    content.truncate(size);
    content
}

/// The size, and frames one after the other, each with its length in front.
fn encoded(data: &[u8]) -> (u64, Vec<v1::DiskCells>) {
    let mut frames = Vec::new();
    let Some((size, mut data)) = data.split_first_chunk() else { return (0, frames) };
    while !data.is_empty()
        && frames.len() < 8
        && let Ok(frame) = v1::DiskCells::decode_length_delimited(&mut data)
    {
        frames.push(frame);
    }
    (u64::from_le_bytes(*size), frames)
}

/// Frames that are nearly right.
#[derive(Arbitrary, Debug)]
struct Made {
    blocks: u8,
    cut: u16,
    frames: Vec<MadeFrame>,
}

#[derive(Arbitrary, Debug)]
struct MadeFrame {
    cells: Vec<MadeCell>,
    zeros: Vec<(u8, u8)>,
}

#[derive(Arbitrary, Debug)]
struct MadeCell {
    blocks: u8,
    fill: u8,
    pieces: Vec<(u8, u8, u8)>,
    lie: u8,
}

fn made(data: &[u8]) -> (u64, Vec<v1::DiskCells>) {
    let Ok(made) = Made::arbitrary(&mut Unstructured::new(data)) else { return (0, Vec::new()) };
    let size = (u64::from(made.blocks & 31) * BLOCK_SIZE as u64).saturating_sub(u64::from(made.cut & 0xfff));
    let frame = |frame: &MadeFrame| v1::DiskCells {
        cells: frame.cells.iter().take(6).map(made_cell).collect(),
        zero_extents: frame.zeros.iter().map(|(first, count)| extent(*first, *count)).collect(),
    };
    (size, made.frames.iter().take(8).map(frame).collect())
}

fn made_cell(made: &MadeCell) -> v1::RestoredCell {
    let plain = plain(u64::from(made.blocks & 7) + 1, made.fill);
    let (codec, data) = encode_cell(plain.clone(), 1);
    let mut hash = cell_hash(&plain).to_vec();
    if made.lie & 0xf0 == 0xf0 {
        hash[usize::from(made.lie & 15)] ^= 1;
    }
    let piece = |(from, first, count): &(u8, u8, u8)| v1::Piece {
        cell_block: if *from >= 0xf8 { u32::MAX - u32::from(from - 0xf8) } else { u32::from(from & 7) },
        extent: (made.lie != 1).then(|| extent(*first, *count)),
    };
    v1::RestoredCell {
        codec: v1::Codec::try_from(codec as i32 + 1).expect("two codecs").into(),
        plain_bytes: u32::try_from(plain.len()).expect("few blocks"),
        plain_hash: hash,
        pieces: made.pieces.iter().take(8).map(piece).collect(),
        data: data.into(),
    }
}

/// The largest numbers stand for what no disk has.
fn extent(first: u8, count: u8) -> v1::Extent {
    let wide =
        |value: u8| if value >= 0xf8 { u64::MAX - u64::from(value - 0xf8) } else { u64::from(value & 31) };
    v1::Extent { first_block: wide(first), block_count: wide(count) }
}
