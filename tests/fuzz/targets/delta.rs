//! A delta's root and pages, opened.
#![no_main]

use holdfast_fuzz as _;
use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{
    DeltaRoot, MetaPlace, PageRef, Place, decode_extents, decode_hashes, encode_extents, encode_hashes,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    match mode {
        0 => root(data),
        1 | 2 => {
            // Where the page says that it lies.
            let Some((bounds, data)) = data.split_first_chunk::<16>() else { return };
            let bounds = u128::from_le_bytes(*bounds);
            let (first_block, end_block) = ((bounds >> 64) as u64, bounds as u64);
            let place = MetaPlace { segment: 0, cell: 0 };
            let page = PageRef { first_block, end_block, place, hash: [0; 32] };
            if mode == 1 { extents(data, &page) } else { hashes(data, &page) }
        }
        _ => {}
    }
});

fn root(data: &[u8]) {
    let Ok(root) = DeltaRoot::decode(data) else { return };
    assert_eq!(root.encode(), data, "a root has one encoding");
    for pages in [&root.extent_pages, &root.hash_pages] {
        assert!(pages.iter().all(|page| page.first_block < page.end_block));
        assert!(pages.is_sorted_by(|a, b| a.end_block <= b.first_block), "pages ascend");
    }
}

fn extents(data: &[u8], page: &PageRef) {
    let Ok(extents) = decode_extents(data, page) else { return };
    assert_eq!(encode_extents(&extents), data, "a page has one encoding");
    check(page, extents.iter().map(|placed| placed.extent));
    for placed in &extents {
        // Far behind the end, too, a place is a place.
        let last = placed.place.skip(placed.extent.block_count - 1);
        assert_eq!(last == Place::Zero, placed.place == Place::Zero);
    }
}

fn hashes(data: &[u8], page: &PageRef) {
    let Ok(runs) = decode_hashes(data, page) else { return };
    assert_eq!(encode_hashes(&runs), data, "a page has one encoding");
    check(page, runs.iter().map(|run| run.extent));
    for run in &runs {
        assert!(run.hashes.is_empty() || run.hashes.len() as u64 == run.extent.block_count);
    }
}

fn check(page: &PageRef, extents: impl Iterator<Item = Extent>) {
    let mut at = page.first_block;
    for extent in extents {
        assert!(extent.block_count > 0 && extent.first_block >= at, "extents ascend");
        at = extent.end().expect("extents end");
    }
    assert!(at <= page.end_block.max(page.first_block), "they lie in their page");
}
