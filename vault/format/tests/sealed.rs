//! Containers, directories, tables and records: what is written reads back, anything else is refused and never panics.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use holdfast_vault_format::container::{
    FOOTER_LEN, HEADER_LEN, Keyring, Kind, Opener, Sealer, open_record, seal_record,
};
use holdfast_vault_format::delta::{DeltaRoot, MetaPlace};
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::keys::DataKey;
use holdfast_vault_format::record::{
    Abort, Consistency, DeltaRef, Open, Point, PointDisk, PointRef, Signer, verify,
};
use holdfast_vault_format::segment::{
    CellBlocks, CellEntry, CellKind, Directory, decode_table, encode_table,
};
use holdfast_vault_format::{Codec, DecodeError, Extent};
use proptest::prelude::*;
use uuid::Uuid;

fn ring(secret: u8) -> Keyring {
    Keyring { vault: Uuid::from_u128(1), key: DataKey::new(Uuid::from_u128(2), [secret; 32]) }
}

fn point() -> Point {
    Point {
        id: Uuid::from_u128(10),
        machine: Uuid::from_u128(11),
        machine_name: "web1".to_owned(),
        seq: 7,
        created_at: -5,
        taken_at: 1_700_000_000_000_000,
        consistency: Consistency::FileSystem,
        snapshot: Uuid::from_u128(12),
        step: Uuid::from_u128(13),
        attempt: 3,
        previous: Some(PointRef { seq: 6, hash: [9; 32] }),
        disks: vec![PointDisk {
            name: "sda".to_owned(),
            size_bytes: 1,
            read_bytes: 2,
            changed_bytes: 3,
            sent_bytes: 4,
            stored_bytes: 5,
            stack: vec![DeltaRef { seq: 7, hash: [8; 32], parts: vec![MetaPlace { segment: 1, cell: 300 }] }],
        }],
    }
}

#[test]
fn records_read_back_and_every_changed_bit_is_refused() {
    let name = "points/a/00000000000000000007";
    let sealed = seal_record(&ring(1), Kind::Point, name, [5; 32], b"the body").unwrap();
    assert_eq!(open_record(&ring(1), name, &sealed).unwrap(), (Kind::Point, b"the body".to_vec()));
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut bad = sealed.clone();
            bad[at] ^= 1 << bit;
            assert!(open_record(&ring(1), name, &bad).is_err(), "bit {bit} of byte {at}");
        }
        assert!(open_record(&ring(1), name, &sealed[..at]).is_err(), "cut to {at}");
    }
    for more in [1, 16, 44, 1000] {
        let mut bad = sealed.clone();
        bad.resize(sealed.len() + more, 0);
        assert!(open_record(&ring(1), name, &bad).is_err(), "{more} more bytes");
    }
    assert_eq!(
        open_record(&ring(1), "points/a/00000000000000000008", &sealed),
        Err(DecodeError::Sealed { what: "the footer" })
    );
    assert_eq!(open_record(&ring(2), name, &sealed), Err(DecodeError::Commitment));
    let mut other = ring(1);
    other.vault = Uuid::from_u128(99);
    assert_eq!(open_record(&other, name, &sealed), Err(DecodeError::ForeignVault));
}

#[test]
fn cells_are_bound_to_their_place_and_lengths() {
    let name = "seg/a/1/0.0";
    let mut sealer = Sealer::new(&ring(1), Kind::Segment, name, [6; 32], Vec::new()).unwrap();
    let first = sealer.cell(1, 4096, &[1; 4096]).unwrap() as usize;
    sealer.cell(1, 4096, &[2; 4096]).unwrap();
    let bytes = sealer.finish(b"table", b"body").unwrap();
    let opener = Opener::new(&ring(1), name, &bytes).unwrap();
    let layout = opener.footer(&bytes[bytes.len() - FOOTER_LEN..], bytes.len() as u64).unwrap();
    assert_eq!(layout.cells, 2);
    let cell = |number: usize| bytes[HEADER_LEN + number * first..HEADER_LEN + (number + 1) * first].to_vec();
    assert_eq!(opener.cell(0, 1, 4096, cell(0)).unwrap(), [1; 4096]);
    let refused = Err(DecodeError::Sealed { what: "a cell" });
    assert_eq!(opener.cell(1, 1, 4096, cell(0)), refused, "another number");
    assert_eq!(opener.cell(0, 2, 4096, cell(0)), refused, "another codec");
    assert_eq!(opener.cell(0, 1, 8192, cell(0)), refused, "another length");
    let body = opener.body(bytes[HEADER_LEN..HEADER_LEN + first].to_vec());
    assert_eq!(body, Err(DecodeError::Sealed { what: "the body" }), "a cell as the body");
    for object_len in [bytes.len() as u64 - 1, bytes.len() as u64 + 1, 0, u64::MAX] {
        let refused =
            opener.footer(&bytes[bytes.len() - FOOTER_LEN..], object_len).map(|layout| layout.cells);
        assert!(matches!(refused, Err(DecodeError::OutOfRange { .. })), "{object_len}: {refused:?}");
    }
}

/// Nobody but the holder of the signing key makes points, not even who has the data key.
#[test]
fn points_are_signed() {
    let (signer, other) = (Signer::from_seed(&[1; 32]).unwrap(), Signer::from_seed(&[2; 32]).unwrap());
    let body = signer.sign(&point());
    assert_eq!(verify(&body, &signer.public_key()).unwrap(), point());
    assert_eq!(verify(&body, &other.public_key()), Err(DecodeError::Signature));
    for at in 0..body.len() {
        let mut bad = body.clone();
        bad[at] ^= 1;
        assert_eq!(verify(&bad, &signer.public_key()), Err(DecodeError::Signature), "byte {at}");
        assert!(verify(&body[..at], &signer.public_key()).is_err());
    }
}

#[test]
fn records_of_all_kinds_read_back() {
    assert_eq!(Point::decode(&point().encode()).unwrap(), point());
    let mut changed = point();
    changed.disks[0].stack[0].parts[0].cell += 1;
    assert_ne!(changed.hash(), point().hash());
    let open = Open {
        machine: Uuid::from_u128(1),
        seq: u64::MAX,
        snapshot: Uuid::from_u128(2),
        step: Uuid::from_u128(3),
        attempt: -1,
        base: None,
        adopted: vec![4, 5],
        epoch: 6,
    };
    assert_eq!(Open::decode(&open.encode()).unwrap(), open);
    let abort = Abort { machine: Uuid::from_u128(1), seq: 2, reason: "lost".to_owned() };
    assert_eq!(Abort::decode(&abort.encode()).unwrap(), abort);
    // What a reader takes is written whole, and the rest cut off, whatever the letters.
    let long = Abort { reason: "x".repeat(1024), ..abort };
    assert_eq!(Abort::decode(&long.encode()).unwrap(), long);
    for letters in ["x", "\u{e4}", "\u{20ac}", "\u{1F980}"] {
        let wordy = Abort { reason: letters.repeat(5000), ..abort };
        let read = Abort::decode(&wordy.encode()).unwrap();
        assert!(wordy.reason.starts_with(&read.reason) && read.reason.len() > 1020);
    }
}

/// The end of a larger disk's last block is no number.
#[test]
fn a_disk_has_a_largest_size() {
    for (size, good) in [(0, true), (i64::MAX as u64, true), (1 << 63, false), (u64::MAX, false)] {
        let mut large = point();
        large.disks[0].size_bytes = size;
        assert_eq!(Point::decode(&large.encode()).is_ok(), good, "{size}");
        let root = DeltaRoot {
            size_bytes: size,
            extents: 0,
            segments: Vec::new(),
            extent_pages: Vec::new(),
            hash_pages: Vec::new(),
        };
        assert_eq!(DeltaRoot::decode(&root.encode()).is_ok(), good, "{size}");
    }
}

fn segment() -> impl Strategy<Value = (Directory, Vec<CellBlocks>)> {
    let cell = (0_u8..4, 1_u64..8, 0_u64..1000, any::<[u8; 32]>());
    prop::collection::vec(cell, 0..30).prop_map(|cells| {
        let (mut entries, mut table) = (Vec::new(), Vec::new());
        for (kind, blocks, first_block, hash) in cells {
            let extents = vec![
                Extent { first_block, block_count: blocks },
                Extent { first_block: first_block + blocks + 3, block_count: 1 },
            ];
            let count = u32::try_from(blocks + 1).unwrap();
            let (kind, plain_len) = match kind {
                0 => (CellKind::Data { disk: 0, codec: Codec::Raw }, count * 4096),
                1 => (CellKind::Data { disk: 1, codec: Codec::Zstd }, count * 4096),
                2 => (CellKind::Zero { disk: 1 }, 0),
                3 => (CellKind::Meta, count),
                4 => (CellKind::Kept { codec: Codec::Raw, kept: Blocks(count - 1) }, count * 4096),
                5 => (CellKind::Kept { codec: Codec::Zstd, kept: Blocks(1) }, count * 4096),
                _ => (CellKind::Gone, 0),
            };
            let hashes = match kind {
                CellKind::Data { .. } => (0..u64::from(count)).collect(),
                _ => Vec::new(),
            };
            table.push(CellBlocks { extents: if kind.is_in_table() { extents } else { Vec::new() }, hashes });
            entries.push(CellEntry { kind, plain_len, stored_len: 16 + plain_len, hash });
        }
        let disks = vec!["a".to_owned(), "b".to_owned()];
        (Directory { snapshot: Uuid::from_u128(3), disks, cells: entries }, table)
    })
}

proptest! {
    #[test]
    fn directories_and_tables_read_back((directory, table) in segment()) {
        prop_assert_eq!(&Directory::decode(&directory.encode()).unwrap(), &directory);
        let with_blocks: Vec<CellBlocks> = directory
            .cells
            .iter()
            .zip(&table)
            .filter(|(cell, _)| cell.kind.is_in_table())
            .map(|(_, blocks)| blocks.clone())
            .collect();
        prop_assert_eq!(decode_table(&encode_table(&with_blocks), &directory).unwrap(), table);
    }

    /// Valid bytes with a few of them changed get further into the decoders than random ones.
    #[test]
    fn almost_valid_bytes_never_panic(
        (directory, _) in segment(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut bytes in [directory.encode(), point().encode()] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                if let Ok(decoded) = Directory::decode(bytes) {
                    let _ = decoded.offsets();
                    let _ = decoded.root();
                    let _ = decode_table(bytes, &decoded);
                }
                let _ = Point::decode(bytes);
                let _ = Open::decode(bytes);
                let _ = Abort::decode(bytes);
            }
        }
    }

    #[test]
    fn arbitrary_objects_never_panic(bytes: Vec<u8>, (directory, _) in segment()) {
        prop_assert!(open_record(&ring(1), "open/a/1", &bytes).is_err());
        let _ = decode_table(&bytes, &directory);
    }
}
