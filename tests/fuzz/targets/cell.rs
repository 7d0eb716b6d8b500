//! Encoded cells, as agents send them and the vault keeps them.
#![no_main]

use holdfast_fuzz as _;
use holdfast_vault_format::kept::{Blocks, Kept};
use holdfast_vault_format::{BLOCK_SIZE, Codec, MAX_CELL_BYTES, cell_hash, decode_cell, encode_cell};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let codec = if mode & 1 == 0 { Codec::Zstd } else { Codec::Raw };
    // 1 to 32 blocks, and what is none.
    let odd = u32::from(mode >> 6) % 3;
    let plain_bytes = (u32::from(mode >> 1) & 31) * BLOCK_SIZE as u32 + BLOCK_SIZE as u32 + odd;
    if mode >> 6 == 3 {
        return kept(codec, plain_bytes, data);
    }
    let Ok(plain) = decode_cell(codec, plain_bytes, data) else { return };
    assert_eq!(plain.len(), plain_bytes as usize);
    assert!(
        plain.len() <= MAX_CELL_BYTES && plain.len().is_multiple_of(BLOCK_SIZE) && data.len() <= plain.len()
    );
    let (codec, encoded) = encode_cell(plain.to_vec(), 1);
    assert_eq!(decode_cell(codec, plain_bytes, &encoded).expect("what is encoded decodes"), plain);
});

/// What is left of a cell: as it is said to be, and as it is left of one.
fn kept(codec: Codec, plain_bytes: u32, data: &[u8]) {
    let Some((mask, data)) = data.split_first_chunk() else { return };
    let plain_bytes = plain_bytes / BLOCK_SIZE as u32 * BLOCK_SIZE as u32;
    let blocks = plain_bytes as usize / BLOCK_SIZE;
    let kept = Blocks(u32::from_le_bytes(*mask) & Blocks::first(blocks).0);
    let _ = Kept::decode(codec, plain_bytes, kept, &[0; 32], data);
    let mut plain = data.to_vec();
    plain.resize(blocks * BLOCK_SIZE, 5);
    let (codec, stored) = Kept::whole(&plain).encode(plain_bytes, kept, 1);
    let read =
        Kept::decode(codec, plain_bytes, kept, &cell_hash(&plain), &stored).expect("what is kept reads");
    assert_eq!(read.plain.len(), kept.count() * BLOCK_SIZE);
}
