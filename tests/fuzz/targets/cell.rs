//! Encoded cells, as agents send them and the vault keeps them.
#![no_main]

use holdfast_fuzz as _;
use holdfast_vault_format::{BLOCK_SIZE, Codec, MAX_CELL_BYTES, decode_cell, encode_cell};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let codec = if mode & 1 == 0 { Codec::Zstd } else { Codec::Raw };
    // 1 to 32 blocks, and what is none.
    let odd = u32::from(mode >> 6) % 3;
    let plain_bytes = (u32::from(mode >> 1) & 31) * BLOCK_SIZE as u32 + BLOCK_SIZE as u32 + odd;
    let Ok(plain) = decode_cell(codec, plain_bytes, data) else { return };
    assert_eq!(plain.len(), plain_bytes as usize);
    assert!(
        plain.len() <= MAX_CELL_BYTES && plain.len().is_multiple_of(BLOCK_SIZE) && data.len() <= plain.len()
    );
    let (codec, encoded) = encode_cell(plain.to_vec(), 1);
    assert_eq!(decode_cell(codec, plain_bytes, &encoded).expect("what is encoded decodes"), plain);
});
