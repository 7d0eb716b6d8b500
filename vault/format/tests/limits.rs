//! Where decoders stop: the largest that is taken, and the smallest that is not. The inputs are written by the encoders
//! from values that no writer has, so that only the check in question can refuse them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use holdfast_vault_format::DecodeError::{self, OutOfRange, Trailing, Truncated};
use holdfast_vault_format::bytes::{Reader, Writer};
use holdfast_vault_format::delta::{
    DeltaRoot, HashRun, MetaPlace, PageRef, Place, Placed, SegmentRef, decode_extents, decode_hashes,
    encode_extents, encode_hashes,
};
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::record::{Abort, Open, Point, verify};
use holdfast_vault_format::segment::{
    CellBlocks, CellEntry, CellKind, Directory, MAX_META_BYTES, MAX_ZERO_EXTENTS, decode_table, encode_table,
};
use holdfast_vault_format::{Codec, Extent, MAX_CELL_BLOCKS, MAX_CELL_BYTES};
use uuid::Uuid;

fn extent(first_block: u64, block_count: u64) -> Extent {
    Extent { first_block, block_count }
}

#[test]
fn numbers() {
    let varint = |bytes: &[u8]| Reader::new(bytes).varint("n");
    let refused = Err(OutOfRange { what: "n" });
    let most = [[0xff; 9].as_slice(), &[1]].concat();
    assert_eq!(varint(&most), Ok(u64::MAX));
    assert_eq!(varint(&[[0xff; 9].as_slice(), &[2]].concat()), refused, "65 bits");
    assert_eq!(varint(&[[0x80; 10].as_slice(), &[0]].concat()), refused, "eleven bytes");
    assert_eq!(varint(&[0x80, 0x80]), Err(Truncated { what: "n" }));
    for (value, bytes) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
        let mut writer = Writer::new();
        writer.varint(value);
        assert_eq!(writer.into_bytes(), bytes);
        assert_eq!(varint(bytes), Ok(value));
    }
    let mut writer = Writer::new();
    writer.u8(1);
    writer.u32(0x0203_0405);
    writer.i64(-2);
    let bytes = writer.into_bytes();
    assert_eq!(bytes, [1, 5, 4, 3, 2, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.remaining(), 13);
    assert_eq!((reader.u8("a"), reader.u32("b"), reader.i64("c")), (Ok(1), Ok(0x0203_0405), Ok(-2)));
    assert_eq!((reader.remaining(), reader.u8("d")), (0, Err(Truncated { what: "d" })));
    assert_eq!(reader.finish(), Ok(()));
    assert_eq!(Reader::new(&[0; 3]).finish(), Err(Trailing { count: 3 }));
}

/// Nothing is allocated for a count that what is left cannot hold.
#[test]
fn counts_and_strings() {
    let count = |bytes: &[u8], least| Reader::new(bytes).count(least, "n");
    let refused = Err(OutOfRange { what: "n" });
    assert_eq!(count(&[2, 0, 0, 0, 0, 0, 0], 3), Ok(2));
    assert_eq!(count(&[2, 0, 0, 0, 0, 0], 3), refused);
    assert_eq!(count(&[2, 0, 0], 0), Ok(2), "whatever it is, it takes a byte");
    assert_eq!(count(&[2, 0], 0), refused);
    let huge = [[0xff; 9].as_slice(), &[1]].concat();
    assert_eq!(count(&huge, 8), refused, "the product overflows");
    let string = |bytes: &[u8]| Reader::new(bytes).string(3, "s");
    assert_eq!(string(b"\x03abc"), Ok("abc".to_owned()));
    assert_eq!(string(b"\x04abcd"), Err(OutOfRange { what: "s" }));
    assert_eq!(string(b"\x03ab"), Err(OutOfRange { what: "s" }));
    assert_eq!(string(b"\x01\xff"), Err(OutOfRange { what: "s" }), "no UTF-8");
}

fn page(first_block: u64, end_block: u64) -> PageRef {
    PageRef { first_block, end_block, place: MetaPlace { segment: 1, cell: 2 }, hash: [0; 32] }
}

#[test]
fn pages_are_in_order_and_hold_something() {
    let root = |extent_pages: Vec<PageRef>, hash_pages: Vec<PageRef>| {
        let segments =
            vec![SegmentRef { lender: None, seq: 1, number: u32::MAX, generation: u32::MAX, root: [1; 32] }];
        DeltaRoot { size_bytes: 1, extents: 1, segments, extent_pages, hash_pages }
    };
    let good = root(vec![page(3, 4), page(4, 9)], vec![page(0, 1), page(8, u64::MAX)]);
    assert_eq!(DeltaRoot::decode(&good.encode()), Ok(good));
    for bad in
        [vec![page(3, 4), page(3, 9)], vec![page(5, 5)], vec![page(5, 4)], vec![page(4, 9), page(0, 1)]]
    {
        let refused = Err(OutOfRange { what: "a page" });
        assert_eq!(DeltaRoot::decode(&root(bad.clone(), Vec::new()).encode()), refused);
        assert_eq!(DeltaRoot::decode(&root(Vec::new(), bad).encode()), refused);
    }
    let mut long = root(Vec::new(), Vec::new()).encode();
    long.push(0);
    let lenders = Err(OutOfRange { what: "the segments of other machines" });
    assert_eq!(DeltaRoot::decode(&long), lenders, "none are not told");
    let with = |end: &[u8]| DeltaRoot::decode(&[&root(Vec::new(), Vec::new()).encode(), end].concat());
    let uuid = [7; 16];
    assert!(with(&[&[1, 0], &uuid[..]].concat()).is_ok());
    assert_eq!(with(&[&[1, 1], &uuid[..]].concat()), lenders, "there is one segment");
    assert_eq!(with(&[&[2, 0], &uuid[..], &[0], &uuid].concat()), lenders);
    assert_eq!(with(&[&[1, 0], &uuid[..], &[0]].concat()), Err(Trailing { count: 1 }));
    let far = [&[1][..], &[0xff; 9], &[1], &uuid].concat();
    assert_eq!(with(&far), lenders, "2^64-1");
    let too_large = [&[0; 16][..], &[1, 1, 0x80, 0x80, 0x80, 0x80, 0x10, 0], &[0; 32], &[0, 0]].concat();
    assert_eq!(DeltaRoot::decode(&too_large), Err(OutOfRange { what: "a segment" }), "33 bits");
}

#[test]
fn extents_and_hashes_lie_in_their_page() {
    let page = page(10, 20);
    let refused = |what| DecodeError::OutOfRange { what };
    for (at, good) in [
        (extent(10, 10), true),
        (extent(10, 1), true),
        (extent(19, 1), true),
        (extent(9, 1), false),
        (extent(9, 5), false),
        (extent(19, 2), false),
        (extent(20, 1), false),
        (extent(12, 0), false),
        (extent(12, u64::MAX), false),
    ] {
        // By hand: the encoder cannot count beyond the last block there is.
        let mut writer = Writer::new();
        writer.count(1);
        writer.varint(at.first_block);
        writer.varint(at.block_count);
        writer.u8(0);
        let bytes = writer.into_bytes();
        let zeros = Placed { extent: at, place: Place::Zero };
        let run = HashRun { extent: at, hashes: Vec::new() };
        let (extents, hashes) = (decode_extents(&bytes, &page), decode_hashes(&bytes, &page));
        if good {
            assert_eq!((extents, hashes), (Ok(vec![zeros]), Ok(vec![run])), "{at:?}");
        } else {
            let error = refused("an extent");
            assert_eq!((extents, hashes), (Err(error.clone()), Err(error)), "{at:?}");
        }
    }
    let largest = Placed {
        extent: extent(10, 1),
        place: Place::Cell { segment: u32::MAX, cell: u32::MAX, cell_block: u32::MAX },
    };
    let mut bytes = encode_extents(&[largest]);
    assert_eq!(decode_extents(&bytes, &page), Ok(vec![largest]));
    assert_eq!(bytes[3..8], [0x80, 0x80, 0x80, 0x80, 0x10], "one more than the largest segment");
    bytes[3] = 0x81;
    assert_eq!(decode_extents(&bytes, &page), Err(refused("a place")));

    let run = HashRun { extent: extent(10, 2), hashes: vec![7, 8] };
    let bytes = encode_hashes(std::slice::from_ref(&run));
    assert_eq!(decode_hashes(&bytes, &page), Ok(vec![run]));
    let mut other = bytes.clone();
    other[3] = 2;
    assert_eq!(decode_hashes(&other, &page), Err(refused("a run")), "neither zeros nor hashes");
    assert_eq!(decode_hashes(&bytes[..bytes.len() - 1], &page), Err(refused("a run")), "too few hashes");
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(decode_hashes(&longer, &page), Err(Trailing { count: 1 }));
}

#[test]
fn places_move_with_their_blocks() {
    let cell = |cell_block| Place::Cell { segment: 1, cell: 2, cell_block };
    assert_eq!(cell(3).skip(4), cell(7));
    assert_eq!(Place::Zero.skip(4), Place::Zero);
    assert_eq!(cell(3).skip(u64::MAX), cell(u32::MAX), "no cell is so long");
    assert_eq!(cell(u32::MAX).skip(1), cell(u32::MAX));
}

fn directory(disks: Vec<String>, cells: Vec<CellEntry>) -> Directory {
    Directory { snapshot: Uuid::from_u128(1), disks, cells }
}

#[test]
fn disks_of_a_segment() {
    let refused = |what| Err(OutOfRange { what });
    let names = |count: usize, len: usize| vec!["x".repeat(len); count];
    for (disks, bad) in [
        (names(1024, 1), None),
        (names(1025, 1), Some("the disks")),
        (names(1, 64), None),
        (names(1, 65), Some("a disk's name")),
    ] {
        let directory = directory(disks, Vec::new());
        let decoded = Directory::decode(&directory.encode());
        assert_eq!(decoded, bad.map_or(Ok(directory), refused));
    }
}

#[test]
fn cells_of_a_segment() {
    let (most_meta, most_data) =
        (u32::try_from(MAX_META_BYTES).unwrap(), u32::try_from(MAX_CELL_BYTES).unwrap());
    assert_eq!((most_meta, most_data), (1 << 20, 128 << 10));
    let raw = |disk| CellKind::Data { disk, codec: Codec::Raw };
    let zstd = CellKind::Data { disk: 0, codec: Codec::Zstd };
    let zero = |disk| CellKind::Zero { disk };
    let kept = |blocks| CellKind::Kept { codec: Codec::Zstd, kept: Blocks(blocks) };
    let length = Some("a cell's length");
    for (kind, plain_len, stored_len, bad) in [
        (raw(1), 4096, 4112, None),
        (raw(2), 4096, 4112, Some("a cell's disk")),
        (zero(1), 0, 16, None),
        (zero(2), 0, 16, Some("a cell's disk")),
        (zstd, most_data, 16, None),
        (zstd, most_data + 4096, 16, length),
        (zstd, 0, 16, length),
        (zstd, 4095, 16, length),
        (zstd, 4096, 15, length),
        (zstd, 4096, most_meta + 16, None),
        (zstd, 4096, most_meta + 17, length),
        (zero(0), 1, 16, length),
        (zero(0), 4096, 16, length),
        (CellKind::Known { disk: 1 }, most_data, 69, None),
        (CellKind::Known { disk: 2 }, 4096, 69, Some("a cell's disk")),
        (CellKind::Known { disk: 0 }, 0, 69, length),
        (CellKind::Known { disk: 0 }, most_data + 4096, 69, length),
        (kept(1), 4096, 16, None),
        (kept(2), 4096, 16, length),
        (kept(0), 8192, 16, None),
        (kept(u32::MAX), most_data, 16, None),
        (kept(u32::MAX), most_data - 4096, 16, length),
        (kept(0), 0, 16, length),
        (kept(0), most_data + 4096, 16, length),
        (CellKind::Gone, 0, 16, None),
        (CellKind::Gone, 4096, 16, length),
        (CellKind::Meta, 1, 17, None),
        (CellKind::Meta, 0, 16, length),
        (CellKind::Meta, most_meta, most_meta + 16, None),
        (CellKind::Meta, most_meta + 1, 16, length),
    ] {
        let cell = CellEntry { kind, plain_len, stored_len, hash: [2; 32] };
        let directory = directory(vec!["a".to_owned(), "b".to_owned()], vec![cell]);
        let decoded = Directory::decode(&directory.encode());
        let expected = bad.map_or(Ok(directory), |what| Err(OutOfRange { what }));
        assert_eq!(decoded, expected, "{kind:?} {plain_len} {stored_len}");
    }
    let cell = CellEntry { kind: zero(0), plain_len: 0, stored_len: 16, hash: [2; 32] };
    let bytes = directory(vec!["a".to_owned()], vec![cell]).encode();
    assert_eq!(bytes[20], 3);
    for (kind, what) in [(0, "a cell's kind"), (9, "a cell's kind")] {
        let mut bytes = bytes.clone();
        bytes[20] = kind;
        assert_eq!(Directory::decode(&bytes), Err(OutOfRange { what }));
    }
    assert_eq!(Directory::decode(&[&bytes[..], &[0]].concat()), Err(Trailing { count: 1 }));
    let wide = [&bytes[..22], &[0x80, 0x80, 0x80, 0x80, 0x10, 16], &[2; 32]].concat();
    assert_eq!(Directory::decode(&wide), Err(OutOfRange { what: "a cell's length" }), "33 bits");
}

#[test]
fn the_table_fits_its_directory() {
    let entry = |kind, plain_len| CellEntry { kind, plain_len, stored_len: 16, hash: [0; 32] };
    let data = |blocks: u32| entry(CellKind::Data { disk: 0, codec: Codec::Zstd }, blocks * 4096);
    let zero = entry(CellKind::Zero { disk: 0 }, 0);
    let scattered = |count: usize| (0..count as u64).map(|number| extent(number * 2, 1)).collect::<Vec<_>>();
    let blocks = |extents: Vec<Extent>, hashes: u64| CellBlocks { extents, hashes: (0..hashes).collect() };
    let decode = |cell: CellEntry, blocks: &CellBlocks| {
        let directory = directory(vec!["a".to_owned()], vec![cell]);
        decode_table(&encode_table(std::slice::from_ref(blocks)), &directory)
    };
    let good = |cell, blocks: CellBlocks| assert_eq!(decode(cell, &blocks), Ok(vec![blocks]));
    let bad = |cell, blocks: CellBlocks, error| assert_eq!(decode(cell, &blocks), Err(error));
    let refused = |what| OutOfRange { what };
    good(data(32), blocks(scattered(MAX_CELL_BLOCKS), 32));
    bad(data(33), blocks(scattered(MAX_CELL_BLOCKS + 1), 33), refused("an extent"));
    good(zero, blocks(scattered(MAX_ZERO_EXTENTS), 0));
    bad(zero, blocks(scattered(MAX_ZERO_EXTENTS + 1), 0), refused("an extent"));
    good(zero, blocks(vec![extent(5, u64::MAX - 5)], 0));
    bad(zero, blocks(vec![extent(5, 0)], 0), refused("an extent"));
    bad(data(1), blocks(vec![extent(5, 1), extent(6, 0)], 1), refused("an extent"));
    bad(data(2), blocks(vec![extent(5, 1)], 2), refused("a cell's extents"));
    bad(data(2), blocks(vec![extent(5, 3)], 2), refused("a cell's extents"));
    bad(data(2), blocks(vec![extent(5, 2)], 1), Truncated { what: "a block's hash" });
    bad(data(2), blocks(vec![extent(5, 2)], 3), Trailing { count: 8 });

    let two = directory(vec!["a".to_owned()], vec![zero, entry(CellKind::Meta, 1)]);
    let held = [blocks(vec![extent(0, 1)], 0), CellBlocks::default()];
    assert_eq!(decode_table(&encode_table(&held), &two), Ok(held.to_vec()));
    assert_eq!(decode_table(&encode_table(&[]), &two), Err(refused("the table")));
    let three = [held[0].clone(), held[0].clone()];
    assert_eq!(decode_table(&encode_table(&three), &two), Err(refused("the table")));
    // No extents at all, and ends that overflow: nothing that the encoder writes.
    let zero_only = directory(vec!["a".to_owned()], vec![zero]);
    assert_eq!(decode_table(&[1, 0], &zero_only), Err(refused("an extent")));
    let most = [[0xff; 9].as_slice(), &[1]].concat();
    let ends = [&[1, 1, 1], &most[..]].concat();
    assert_eq!(decode_table(&ends, &zero_only), Err(refused("an extent")), "an end beyond all blocks");
    let starts = [&[1, 2, 1, 1], &most[..], &[1]].concat();
    assert_eq!(decode_table(&starts, &zero_only), Err(refused("an extent")), "a start beyond all blocks");
}

#[test]
fn records() {
    let abort = Abort { machine: Uuid::from_u128(1), seq: 2, reason: "\u{1F980}".repeat(300) };
    let read = Abort::decode(&abort.encode()).unwrap();
    assert_eq!(read.reason, "\u{1F980}".repeat(256), "the beginning of it, in whole letters");
    let short = Abort { reason: "a".repeat(256), ..abort };
    assert_eq!(Abort::decode(&short.encode()), Ok(short.clone()));
    assert_eq!(Abort::decode(&[&short.encode()[..], &[0]].concat()), Err(Trailing { count: 1 }));

    let open = Open {
        machine: Uuid::from_u128(1),
        seq: 1,
        snapshot: Uuid::from_u128(2),
        step: Uuid::from_u128(3),
        attempt: 1,
        base: None,
        adopted: Vec::new(),
        epoch: 0,
    };
    let mut bytes = open.encode();
    assert_eq!(Open::decode(&[&bytes[..], &[0]].concat()), Err(Trailing { count: 1 }));
    bytes[64] = 2;
    assert_eq!(Open::decode(&bytes), Err(OutOfRange { what: "a point" }), "neither no base nor one");

    // Ids, attempt, no name, seq, times.
    let head = [&[0; 64][..], &[0; 8], &[0], &[0; 24]].concat();
    let point = |consistency: u8, rest: &[u8]| Point::decode(&[&head[..], &[consistency], rest].concat());
    assert_eq!(point(1, &[0, 0]).map(|point| point.disks.len()), Ok(0));
    for consistency in [0, 4] {
        assert_eq!(point(consistency, &[0, 0]), Err(OutOfRange { what: "the consistency" }));
    }
    assert_eq!(point(1, &[2, 0]), Err(OutOfRange { what: "a point" }));
    assert_eq!(point(1, &[0, 0, 0]), Err(Trailing { count: 1 }));
    // A disk without a name or deltas takes 42 bytes.
    assert_eq!(point(1, &[&[0, 1][..], &[0; 42]].concat()).map(|point| point.disks.len()), Ok(1));
    let part = [&[0, 1][..], &[0; 41], &[1], &[0; 40], &[1, 0x80, 0x80, 0x80, 0x80, 0x10, 0]].concat();
    assert_eq!(point(1, &part), Err(OutOfRange { what: "a part" }), "33 bits");
    assert_eq!(verify(&[0; 63], &[0; 32]), Err(Truncated { what: "the signature" }));
    assert_eq!(verify(&[0; 64], &[0; 32]), Err(DecodeError::Signature));
}
