//! A segment's directory and table, opened.
#![no_main]

use holdfast_fuzz as _;
use holdfast_vault_format::BLOCK_SIZE;
use holdfast_vault_format::container::HEADER_LEN;
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::segment::{CellKind, Directory, MAX_ZERO_EXTENTS, decode_table, encode_table};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Two bytes of length, the directory, the table.
    let Some((len, data)) = data.split_first_chunk() else { return };
    let Some((directory, table)) = data.split_at_checked(u16::from_le_bytes(*len).into()) else { return };
    let Ok(decoded) = Directory::decode(directory) else { return };
    assert_eq!(decoded.encode(), directory, "a directory has one encoding");
    let offsets = decoded.offsets();
    assert_eq!(offsets[0], HEADER_LEN as u64);
    assert!(offsets.is_sorted_by(|a, b| a < b), "cells lie one after the other");
    let _ = decoded.root();
    let Ok(cells) = decode_table(table, &decoded) else { return };
    assert_eq!(encode_table(&cells), table, "a table has one encoding");
    assert_eq!(cells.len(), decoded.cells.len());
    for (entry, cell) in decoded.cells.iter().zip(&cells) {
        let mut at = 0;
        for extent in &cell.extents {
            assert!(extent.block_count > 0 && extent.first_block >= at, "extents ascend");
            at = extent.end().expect("extents end");
        }
        let blocks: u64 = cell.extents.iter().map(|extent| extent.block_count).sum();
        match entry.kind {
            CellKind::Meta | CellKind::Gone => assert!(cell.extents.is_empty() && cell.hashes.is_empty()),
            CellKind::Kept { kept, .. } => {
                assert!(cell.extents.is_empty() && cell.hashes.is_empty());
                assert!(Blocks::first(entry.plain_len as usize / BLOCK_SIZE).has_all(kept));
            }
            CellKind::Zero { disk } => {
                assert!((disk as usize) < decoded.disks.len() && cell.hashes.is_empty());
                assert!((1..=MAX_ZERO_EXTENTS).contains(&cell.extents.len()));
            }
            CellKind::Data { disk, .. } | CellKind::Known { disk } => {
                assert!((disk as usize) < decoded.disks.len());
                assert_eq!(blocks * BLOCK_SIZE as u64, u64::from(entry.plain_len));
                assert_eq!(blocks, cell.hashes.len() as u64);
            }
        }
    }
});
