//! The sealed container by the bytes that `vault/FORMAT.md` writes down, put together by hand: old vaults do not open any
//! more when one of these fails. And what only the holder of the key could have written is believed no more than it must.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use holdfast_vault_format::container::{Keyring, Kind, Opener, Sealer, open_record, seal_record};
use holdfast_vault_format::keys::DataKey;
use holdfast_vault_format::record::Signer;
use holdfast_vault_format::{BlockHasher, DecodeError};
use uuid::Uuid;

const SECRET: [u8; 32] = [3; 32];
const SALT: [u8; 32] = [5; 32];
const NAME: &str = "points/a/00000000000000000007";
const VAULT: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
const KEY_ID: Uuid = Uuid::from_u128(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20);
const TABLE: u64 = 0xffff_ffff_ffff_fffd;
const BODY: u64 = 0xffff_ffff_ffff_fffe;
const FOOTER: u64 = 0xffff_ffff_ffff_ffff;

fn ring() -> Keyring {
    Keyring { vault: VAULT, key: DataKey::new(KEY_ID, SECRET) }
}

/// An object that is put together by hand: whatever is sealed into it is authentic.
struct ByHand {
    key: LessSafeKey,
    name: String,
    bytes: Vec<u8>,
}

impl ByHand {
    fn new(kind: u8) -> Self {
        Self::named(kind, NAME.to_owned())
    }

    fn named(kind: u8, name: String) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("Holdfast vault v1 object key");
        hasher.update(&[&SECRET[..], VAULT.as_bytes(), &[kind], &SALT].concat());
        let mut derived = [0; 64];
        hasher.finalize_xof().fill(&mut derived);
        let head = [b"HOLDFST1".as_slice(), &[kind, 1, 0, 0, 0, 0, 0, 0]].concat();
        let bytes = [&head[..], VAULT.as_bytes(), KEY_ID.as_bytes(), &SALT, &derived[32..]].concat();
        assert_eq!(bytes.len(), 112);
        Self { key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived[..32]).unwrap()), name, bytes }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn seal(&mut self, part: u64, codec: u8, plain_len: u32, data: &[u8]) -> u32 {
        let stored_len = u32::try_from(data.len()).unwrap() + 16;
        let aad = [
            &self.bytes[..112],
            &[u8::try_from(self.name.len()).unwrap()],
            self.name.as_bytes(),
            &part.to_le_bytes(),
            &[codec],
            &plain_len.to_le_bytes(),
            &stored_len.to_le_bytes(),
        ]
        .concat();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&part.to_le_bytes());
        let mut sealed = data.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).unwrap();
        self.bytes.extend(sealed);
        stored_len
    }

    fn plain(&mut self, part: u64, data: &[u8]) -> u32 {
        self.seal(part, 0, u32::try_from(data.len()).unwrap(), data)
    }

    fn footer(&mut self, table: (u64, u32), body: (u64, u32), cells: u32) {
        let footer = [
            &table.0.to_le_bytes()[..],
            &table.1.to_le_bytes(),
            &body.0.to_le_bytes(),
            &body.1.to_le_bytes(),
            &cells.to_le_bytes(),
        ]
        .concat();
        assert_eq!(footer.len(), 28);
        self.plain(FOOTER, &footer);
    }
}

#[test]
fn a_sealed_object() {
    let mut by_hand = ByHand::new(2);
    by_hand.seal(0, 1, 4096, &[7; 4096]);
    by_hand.seal(1, 4, 9, b"meta data");
    let table_at = by_hand.len();
    let table_len = by_hand.plain(TABLE, b"the table");
    let body_at = by_hand.len();
    let body_len = by_hand.plain(BODY, b"the body");
    by_hand.footer((table_at, table_len), (body_at, body_len), 2);

    let mut sealer = Sealer::new(&ring(), Kind::Segment, NAME, SALT, Vec::new()).unwrap();
    assert_eq!(sealer.stored_len(), 112);
    assert_eq!(sealer.cell(1, 4096, &[7; 4096]).unwrap(), 4112);
    assert_eq!(sealer.cell(4, 9, b"meta data").unwrap(), 25);
    assert_eq!(sealer.stored_len() as u64, table_at);
    assert_eq!(sealer.finish(b"the table", b"the body").unwrap(), by_hand.bytes);
}

/// Under the names and with the bodies that these kinds have; by the hash of the whole object, nothing of it ever changes. Segments
/// have cells besides.
#[test]
fn a_record_of_each_kind() {
    let uuid = VAULT.as_bytes();
    let (seven, two) = (7_u64.to_le_bytes(), 2_u64.to_le_bytes());
    let machine = "01020304-0506-0708-090a-0b0c0d0e0f10";
    let open = [uuid, &seven[..], uuid, uuid, &two, &[1], &two, &[9; 32], &[1], &two, &two].concat();
    let point = [uuid, &seven[..], b"a point and its signature"].concat();
    let abort = [uuid, &seven[..], b"\x03why"].concat();
    // Undeletes; signed.
    let event = [uuid, &seven[..], &[3, 0, 0, 0], &two, &two, b"\x03eva", &[2], &[8; 64]].concat();
    let collection = [two, seven, seven].concat();
    let condemned = [&two[..], &[1], uuid, &seven, &[3, 0, 0, 0], &[1, 0, 0, 0]].concat();
    let golden = [
        (
            1,
            Kind::Open,
            format!("open/{machine}/00000000000000000007"),
            open,
            "c8f951a889d314d931839370621e3664f30b5b6b1bcd15b9c3b197c42142d9fd",
        ),
        (
            2,
            Kind::Segment,
            format!("seg/{machine}/00000000000000000007/00000003.1"),
            seven.to_vec(),
            "e4c275c812db9e4ba198fda926f2570ca8f5dd7b29ad760bdc76df901ba5d91d",
        ),
        (
            3,
            Kind::Point,
            format!("points/{machine}/00000000000000000007"),
            point,
            "935eb14223021aef5906dca01136415096fb7ef498deacb5582d5c4f414957df",
        ),
        (
            4,
            Kind::Abort,
            format!("points/{machine}/00000000000000000007"),
            abort,
            "4eb7bb7cd9d14c7ebc2f2967df6aa7c9a1153007dfde4740b42e9c26221010bd",
        ),
        (
            5,
            Kind::Event,
            format!("points/{machine}/00000000000000000007.00000003"),
            event,
            "1642fea0375ed5716b9b095d2849731c6ffeb18e83a266d492b1bd6b4d879012",
        ),
        (
            6,
            Kind::Collection,
            "gc/00000000000000000002".to_owned(),
            collection,
            "9206108c9b51395a402e6f7ff4fcc2df3ed8c1cee9d6142b9d3d96b829dac65f",
        ),
        (
            7,
            Kind::Condemned,
            "gc/00000000000000000002.set".to_owned(),
            condemned,
            "75bb9249b7c174fb088c5d44bfbc7a308d7e0ef34541013afee92c9d1fdd181b",
        ),
        (
            8,
            Kind::Collected,
            "gc/00000000000000000002.done".to_owned(),
            two.to_vec(),
            "b433bc3b23107ed7ee1c6f3f372a2ba98d032864b87883f82c1c29706024cead",
        ),
        (
            9,
            Kind::Removal,
            format!("keys/{machine}.00000001"),
            uuid.to_vec(),
            "89e525957b519b3555ab9737376f931ef39c796575e0cf18fac5b7a06b540f25",
        ),
    ];
    for (number, kind, name, body, hash) in golden {
        let mut by_hand = ByHand::named(number, name.clone());
        by_hand.plain(TABLE, b"");
        let body_len = by_hand.plain(BODY, &body);
        by_hand.footer((112, 16), (128, body_len), 0);
        assert_eq!(seal_record(&ring(), kind, &name, SALT, &body).unwrap(), by_hand.bytes, "{kind:?}");
        assert_eq!(open_record(&ring(), &name, &by_hand.bytes), Ok((kind, body)));
        assert_eq!(blake3::hash(&by_hand.bytes).to_hex().as_str(), hash, "{kind:?}");
        let elsewhere = open_record(&ring(), NAME, &by_hand.bytes);
        assert_eq!(elsewhere, Err(DecodeError::Sealed { what: "the footer" }), "{kind:?}");
    }
}

/// Sealed under the right key, so that only the checks behind the seal can refuse them.
#[test]
fn authentic_footers_that_lie() {
    let refused = Err(DecodeError::OutOfRange { what: "the footer" });
    let good = ((112, 16), (128, 24), 0);
    let lies = [
        ("a table within the header", ((111, 17), (128, 24), 0)),
        ("a gap before the body", ((112, 15), (128, 24), 0)),
        ("a body within the table", ((112, 17), (128, 24), 0)),
        ("a body that ends early", ((112, 16), (128, 23), 0)),
        ("a body that ends in the footer", ((112, 16), (128, 25), 0)),
        ("a table that overflows", ((u64::MAX, 129), (128, 24), 0)),
        ("a body that overflows", ((112, 16), (u64::MAX - 24, 24), 0)),
        ("a cell that is not there", ((112, 16), (128, 24), 1)),
    ];
    for (what, (table, body, cells)) in [("the truth", good)].into_iter().chain(lies) {
        let mut by_hand = ByHand::new(3);
        by_hand.plain(TABLE, b"");
        by_hand.plain(BODY, b"the body");
        by_hand.footer(table, body, cells);
        let opened = open_record(&ring(), NAME, &by_hand.bytes);
        if what == "the truth" {
            assert_eq!(opened, Ok((Kind::Point, b"the body".to_vec())));
        } else {
            assert_eq!(opened, refused, "{what}");
        }
    }
    // Something lies between header and table and is no cell.
    let mut by_hand = ByHand::new(3);
    by_hand.bytes.extend([0; 5]);
    by_hand.plain(TABLE, b"");
    by_hand.plain(BODY, b"the body");
    by_hand.footer((117, 16), (133, 24), 0);
    assert_eq!(open_record(&ring(), NAME, &by_hand.bytes), refused);
    // And something is a cell.
    let mut by_hand = ByHand::new(3);
    by_hand.seal(0, 4, 1, b"m");
    by_hand.plain(TABLE, b"");
    by_hand.plain(BODY, b"the body");
    by_hand.footer((129, 16), (145, 24), 1);
    assert_eq!(open_record(&ring(), NAME, &by_hand.bytes), refused);
}

#[test]
fn headers_that_are_not_ours() {
    let sealed = seal_record(&ring(), Kind::Open, NAME, SALT, b"").unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = sealed.clone();
        bytes[at] = byte;
        Opener::new(&ring(), NAME, &bytes).unwrap_err()
    };
    assert_eq!(with(0, b'h'), DecodeError::NotHoldfast, "magic");
    assert_eq!(with(9, 2), DecodeError::NotHoldfast, "version");
    assert_eq!(with(10, 1), DecodeError::NotHoldfast, "reserved");
    assert_eq!(with(15, 1), DecodeError::NotHoldfast, "reserved");
    for kind in [0, 10, 255] {
        assert_eq!(with(8, kind), DecodeError::NotHoldfast, "kind {kind}");
    }
    assert_eq!(with(8, 2), DecodeError::Commitment, "another kind has another key");
    assert_eq!(with(16, 0xff), DecodeError::ForeignVault);
    assert_eq!(with(47, 0xff), DecodeError::UnknownKey);
    assert_eq!(with(48, 0xff), DecodeError::Commitment, "salt");
    assert_eq!(with(111, !sealed[111]), DecodeError::Commitment);
    let short = Opener::new(&ring(), NAME, &sealed[..111]).unwrap_err();
    assert_eq!(short, DecodeError::Truncated { what: "the header" });
}

/// A part that is shorter than its tag is no part.
#[test]
fn parts_shorter_than_a_tag() {
    let sealed = seal_record(&ring(), Kind::Open, NAME, SALT, b"").unwrap();
    let opener = Opener::new(&ring(), NAME, &sealed).unwrap();
    assert_eq!(opener.kind, Kind::Open);
    assert_eq!(opener.table(vec![0; 15]), Err(DecodeError::Truncated { what: "the table" }));
    assert_eq!(opener.body(vec![0; 15]), Err(DecodeError::Truncated { what: "the body" }));
    assert_eq!(opener.body(vec![0; 16]), Err(DecodeError::Sealed { what: "the body" }));
    assert_eq!(opener.body(sealed[128..144].to_vec()), Ok(Vec::new()));
    assert_eq!(open_record(&ring(), NAME, &sealed[..112]), Err(DecodeError::Sealed { what: "the footer" }));
}

/// What is logged by mistake must not open a vault.
#[test]
fn secrets_are_not_printed() {
    let key = format!("{:?}", ring());
    assert!(key.contains("DataKey") && key.contains(&KEY_ID.to_string()), "{key}");
    let sealer = Sealer::new(&ring(), Kind::Open, NAME, SALT, Vec::new()).unwrap();
    let sealer_text = format!("{sealer:?}");
    assert!(sealer_text.contains("Sealer") && sealer_text.contains("len: 112"), "{sealer_text}");
    let bytes = sealer.finish(b"", b"").unwrap();
    let opener = format!("{:?}", Opener::new(&ring(), NAME, &bytes).unwrap());
    assert!(opener.contains("Opener") && opener.contains("Open"), "{opener}");
    let signer = format!("{:?}", Signer::from_seed(&SECRET).unwrap());
    assert_eq!(signer, "Signer");
    let hasher = format!("{:?}", BlockHasher::new(&SECRET));
    assert_eq!(hasher, "BlockHasher");
    for text in [key, sealer_text, opener] {
        assert!(!text.contains("3, 3, 3") && !text.contains("030303"), "{text}");
    }
}
