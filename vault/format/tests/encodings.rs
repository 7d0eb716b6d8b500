//! Blocks, deltas, segments and records by the bytes that `vault/FORMAT.md` writes down, put together by hand. Old vaults
//! do not read any more when one of these fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use highway::{HighwayHash as _, HighwayHasher, Key};
use holdfast_vault_format::collection::{Collection, Condemned, CondemnedSegment};
use holdfast_vault_format::delta::{
    DeltaRoot, HashRun, MetaPlace, PageRef, Place, Placed, SegmentRef, encode_extents, encode_hashes,
};
use holdfast_vault_format::event::{Action, Event, LockMode};
use holdfast_vault_format::keys::DataKey;
use holdfast_vault_format::record::{Abort, Consistency, DeltaRef, Open, Point, PointDisk, PointRef, Signer};
use holdfast_vault_format::segment::{CellBlocks, CellEntry, CellKind, CellRef, Directory, encode_table};
use holdfast_vault_format::{BlockHasher, Codec, DecodeError, Extent, cell_hash};
use uuid::Uuid;

const VAULT: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

#[test]
fn block_hashes() {
    let derived = {
        let mut hasher = blake3::Hasher::new_derive_key("Holdfast vault v1 block hash key");
        hasher.update(&[&[3; 32][..], Uuid::from_u128(9).as_bytes(), &[1, 0, 0, 0]].concat());
        *hasher.finalize().as_bytes()
    };
    let key = DataKey::new(VAULT, [3; 32]).block_hash_key(Uuid::from_u128(9), 1);
    assert_eq!(key, derived);
    let word = |at: usize| u64::from_le_bytes(key[at..at + 8].try_into().unwrap());
    let expected = HighwayHasher::new(Key([word(0), word(8), word(16), word(24)])).hash64(&[8; 4096]);
    assert_eq!(BlockHasher::new(&key).hash(&[8; 4096]), expected);
}

fn page(first_block: u64, end_block: u64) -> PageRef {
    PageRef { first_block, end_block, place: MetaPlace { segment: 300, cell: 2 }, hash: [6; 32] }
}

#[test]
fn a_delta() {
    let root = DeltaRoot {
        size_bytes: 0x0102_0304_0506_0708,
        extents: 5,
        segments: vec![SegmentRef { lender: None, seq: 1, number: 128, generation: 0, root: [4; 32] }],
        extent_pages: vec![page(0, 127)],
        hash_pages: vec![page(1, 2), page(2, 130)],
    };
    let page = |first: &[u8], end: &[u8]| [first, end, &[0xac, 2, 2], &[6; 32]].concat();
    let expected = [
        &[8, 7, 6, 5, 4, 3, 2, 1][..],
        &[5, 0, 0, 0, 0, 0, 0, 0],
        &[1, 1, 0x80, 1, 0],
        &[4; 32],
        &[1],
        &page(&[0], &[127]),
        &[2],
        &page(&[1], &[2]),
        &page(&[2], &[0x82, 1]),
    ]
    .concat();
    assert_eq!(root.encode(), expected);
    assert_eq!(DeltaRoot::decode(&expected).as_ref(), Ok(&root));

    // Which segments are of other machines is said at the end, if there are any.
    let own = root.segments[0];
    let lent = SegmentRef { lender: Some(VAULT), ..own };
    let root = DeltaRoot { segments: vec![own, own, lent, own, own, lent], ..root };
    let encoded = root.encode();
    let uuid = VAULT.as_bytes().as_slice();
    assert!(encoded.ends_with(&[&[0x82, 1, 0xac, 2, 2], &[6; 32][..], &[2, 2], uuid, &[2], uuid].concat()));
    assert_eq!(encoded.len(), expected.len() + 5 * 36 + 1 + 2 * 17);
    assert_eq!(DeltaRoot::decode(&encoded), Ok(root));

    let extent = |first_block, block_count| Extent { first_block, block_count };
    let cell = |segment, cell, cell_block| Place::Cell { segment, cell, cell_block };
    let extents = [
        Placed { extent: extent(2, 3), place: Place::Zero },
        Placed { extent: extent(5, 1), place: cell(0, 7, 31) },
        Placed { extent: extent(300, 128), place: cell(4, 1, 0) },
    ];
    assert_eq!(encode_extents(&extents), [3, 2, 3, 0, 0, 1, 1, 7, 31, 0xa6, 2, 0x80, 1, 5, 1, 0]);
    let runs = [
        HashRun { extent: extent(2, 3), hashes: Vec::new() },
        HashRun { extent: extent(6, 2), hashes: vec![1, 0x0a00_0000_0000_0002] },
    ];
    let expected = [2, 2, 3, 0, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10];
    assert_eq!(encode_hashes(&runs), expected);
}

#[test]
fn a_segment() {
    let entry =
        |kind, plain_len, stored_len, hash: u8| CellEntry { kind, plain_len, stored_len, hash: [hash; 32] };
    let directory = Directory {
        snapshot: VAULT,
        disks: vec!["a".to_owned(), "vdb".to_owned()],
        cells: vec![
            entry(CellKind::Data { disk: 1, codec: Codec::Raw }, 8192, 8208, 1),
            entry(CellKind::Zero { disk: 0 }, 0, 16, 2),
            entry(CellKind::Meta, 3, 19, 3),
            entry(CellKind::Data { disk: 0, codec: Codec::Zstd }, 4096, 100, 4),
            entry(CellKind::Known { disk: 1 }, 4096, 69, 5),
        ],
    };
    let expected = [
        VAULT.as_bytes().as_slice(),
        &[2, 1, b'a', 3, b'v', b'd', b'b', 5],
        &[1, 1, 0x80, 0x40, 0x90, 0x40],
        &[1; 32],
        &[3, 0, 0, 16],
        &[2; 32],
        &[4, 3, 19],
        &[3; 32],
        &[2, 0, 0x80, 0x20, 100],
        &[4; 32],
        &[5, 1, 0x80, 0x20, 69],
        &[5; 32],
    ]
    .concat();
    assert_eq!(directory.encode(), expected);
    assert_eq!(Directory::decode(&expected).as_ref(), Ok(&directory));
    assert_eq!(directory.offsets(), [112, 8320, 8336, 8355, 8455, 8524]);

    let mut root = blake3::Hasher::new_derive_key("Holdfast vault v1 segment root");
    root.update(&[&[0, 0, 0, 0, 0, 0x20, 0, 0][..], &[1; 32]].concat());
    root.update(&[&[3, 0, 0, 0, 0, 0x10, 0, 0][..], &[4; 32]].concat());
    assert_eq!(directory.root(), *root.finalize().as_bytes());

    let extent = |first_block, block_count| Extent { first_block, block_count };
    let table = [
        CellBlocks { extents: vec![extent(3, 1), extent(10, 1)], hashes: vec![1, 2] },
        CellBlocks { extents: vec![extent(20, 5)], hashes: Vec::new() },
        CellBlocks::default(),
        CellBlocks { extents: vec![extent(0, 1)], hashes: vec![256] },
        CellBlocks { extents: vec![extent(9, 1)], hashes: vec![7] },
    ];
    let expected = [
        &[4, 2, 3, 1, 6, 1][..],
        &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        &[1, 20, 5],
        &[1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0],
        &[1, 9, 1, 7, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(encode_table(&table), expected);
    let known = CellRef { machine: VAULT, seq: 1, number: 2, generation: 0, root: [9; 32], cell: 128 };
    let expected = [VAULT.as_bytes().as_slice(), &[1, 2, 0], &[9; 32], &[0x80, 1]].concat();
    assert_eq!(known.encode(), expected);
    assert_eq!(CellRef::decode(&expected), Ok(known));
    assert_eq!(cell_hash(b"plain"), *blake3::hash(b"plain").as_bytes());
}

#[test]
fn records() {
    let id = |number: u8| [[0; 15].as_slice(), &[number]].concat();
    let open = Open {
        machine: Uuid::from_u128(1),
        seq: 2,
        snapshot: Uuid::from_u128(3),
        step: Uuid::from_u128(4),
        attempt: -1,
        base: Some(PointRef { seq: 1, hash: [9; 32] }),
        adopted: vec![5],
        epoch: 6,
    };
    let seq = |number: u8| [&[number][..], &[0; 7]].concat();
    let expected =
        [id(1), seq(2), id(3), id(4), vec![0xff; 8], vec![1], seq(1), vec![9; 32], vec![1], seq(5), seq(6)]
            .concat();
    assert_eq!(open.encode(), expected);
    assert_eq!(Open::decode(&expected), Ok(open));

    let abort = Abort { machine: Uuid::from_u128(1), seq: 2, reason: "why".to_owned() };
    let expected = [id(1), seq(2), vec![3], b"why".to_vec()].concat();
    assert_eq!(abort.encode(), expected);
    assert_eq!(Abort::decode(&expected), Ok(abort));

    for (number, consistency) in
        [(1, Consistency::Application), (2, Consistency::FileSystem), (3, Consistency::Crash)]
    {
        let point = Point {
            id: Uuid::from_u128(10),
            machine: Uuid::from_u128(11),
            machine_name: "web1".to_owned(),
            seq: 7,
            created_at: 8,
            taken_at: 9,
            consistency,
            snapshot: Uuid::from_u128(12),
            step: Uuid::from_u128(13),
            attempt: 3,
            previous: None,
            disks: vec![PointDisk {
                name: "sda".to_owned(),
                size_bytes: 1,
                read_bytes: 2,
                changed_bytes: 3,
                sent_bytes: 4,
                stored_bytes: 5,
                stack: vec![DeltaRef {
                    seq: 6,
                    hash: [8; 32],
                    parts: vec![MetaPlace { segment: 1, cell: 300 }],
                }],
            }],
        };
        let head =
            [id(10), id(11), id(12), id(13), seq(3), b"\x04web1".to_vec(), seq(7), seq(8), seq(9)].concat();
        let disk = [b"\x03sda".to_vec(), seq(1), seq(2), seq(3), seq(4), seq(5)].concat();
        let delta = [vec![1], seq(6), vec![8; 32], vec![1, 1, 0xac, 2]].concat();
        let expected = [head, vec![number, 0, 1], disk, delta].concat();
        assert_eq!(point.encode(), expected);
        assert_eq!(Point::decode(&expected).as_ref(), Ok(&point));
        assert_eq!(point.hash(), *blake3::hash(&expected).as_bytes());
        let signed = Signer::from_seed(&[1; 32]).unwrap().sign(&point);
        assert_eq!(signed.len(), expected.len() + 64);
        assert!(signed.starts_with(&expected));
    }
}

#[test]
fn events() {
    let signer = Signer::from_seed(&[5; 32]).unwrap();
    let actions: [(Action, &[u8]); 6] = [
        (Action::Delete { window_seconds: 258 }, &[1, 2, 1, 0, 0, 0, 0, 0, 0]),
        (Action::Undelete, &[2]),
        (
            Action::Lock { mode: LockMode::Governance, until: -1 },
            &[3, 1, 255, 255, 255, 255, 255, 255, 255, 255],
        ),
        (Action::Lock { mode: LockMode::Compliance, until: 1 }, &[3, 2, 1, 0, 0, 0, 0, 0, 0, 0]),
        (Action::Unlock, &[4]),
        (Action::Purge, &[5]),
    ];
    for (action, bytes) in actions {
        let event =
            Event { machine: VAULT, seq: 7, number: 3, at: 9, epoch: 4, actor: "eva".to_owned(), action };
        let expected = [
            VAULT.as_bytes(),
            &[7, 0, 0, 0, 0, 0, 0, 0][..],
            &[3, 0, 0, 0],
            &[9, 0, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            b"\x03eva",
            bytes,
        ]
        .concat();
        assert_eq!(event.encode(), expected);
        let body = event.sign(&signer);
        assert_eq!(body[..expected.len()], expected);
        assert_eq!(body.len(), expected.len() + 64);
        assert_eq!(Event::verify(&body, &signer.public_key()), Ok(event));
        let other = Signer::from_seed(&[6; 32]).unwrap();
        assert_eq!(Event::verify(&body, &other.public_key()), Err(DecodeError::Signature));
        let longer = [&expected[..], &[0]].concat();
        assert_eq!(Event::decode(&longer), Err(DecodeError::Trailing { count: 1 }));
    }
    let long = Event {
        machine: VAULT,
        seq: 1,
        number: 1,
        at: 0,
        epoch: 0,
        actor: "\u{e4}".repeat(200),
        action: Action::Purge,
    };
    let read = Event::decode(&long.encode()).unwrap();
    assert_eq!(read.actor, "\u{e4}".repeat(128), "cut at a character");
}

#[test]
fn collections() {
    let collection = Collection { epoch: 2, at: 3, vault_time: -1 };
    let expected = [&[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0][..], &[255; 8]].concat();
    assert_eq!(collection.encode(), expected);
    assert_eq!(Collection::decode(&expected), Ok(collection));

    let segment = |seq, number| CondemnedSegment { machine: VAULT, seq, number, generation: 1 };
    let condemned = Condemned { number: 2, segments: vec![segment(1, 9), segment(2, 0)] };
    let bytes = |seq: u8, number: u8| {
        [VAULT.as_bytes(), &[seq, 0, 0, 0, 0, 0, 0, 0][..], &[number, 0, 0, 0, 1, 0, 0, 0]].concat()
    };
    let expected = [&[2, 0, 0, 0, 0, 0, 0, 0, 2][..], &bytes(1, 9), &bytes(2, 0)].concat();
    assert_eq!(condemned.encode(), expected);
    assert_eq!(Condemned::decode(&expected), Ok(condemned));
    let same = [&[2, 0, 0, 0, 0, 0, 0, 0, 2][..], &bytes(1, 9), &bytes(1, 9)].concat();
    assert_eq!(Condemned::decode(&same), Err(DecodeError::OutOfRange { what: "the order of segments" }));
    let many = [&[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f][..], &bytes(1, 9)].concat();
    assert_eq!(Condemned::decode(&many), Err(DecodeError::OutOfRange { what: "the segments" }));
}
