//! Sealed objects, altered by somebody without the key: nothing but what was sealed ever opens.
#![no_main]

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use holdfast_fuzz::sample::{OBJECTS, Parts};
use holdfast_fuzz::vault::ring;
use holdfast_vault_format::DecodeError;
use holdfast_vault_format::container::{Kind, Opener, open_record};
use libfuzzer_sys::fuzz_target;

/// A change of an object.
#[derive(Arbitrary, Debug)]
enum Edit {
    Flip {
        at: u16,
        bits: u8,
    },
    Cut {
        len: u16,
    },
    Append {
        bytes: [u8; 7],
    },
    /// A part of an object of the same vault, which may be the same object.
    Copy {
        from: u8,
        start: u16,
        to: u16,
        len: u8,
    },
    Insert {
        at: u16,
        byte: u8,
    },
    Remove {
        at: u16,
        len: u8,
    },
}

static PLAIN: LazyLock<Vec<Opened>> = LazyLock::new(|| {
    OBJECTS.iter().map(|(name, bytes)| open(name, bytes).expect("what was sealed opens")).collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let objects = &*OBJECTS;
    let index = usize::from(mode >> 1) % objects.len();
    let (name, sealed) = &objects[index];
    let bytes = if mode & 1 == 0 { data.to_vec() } else { edited(sealed, data) };
    let Ok(plain) = open(name, &bytes) else { return };
    assert!(bytes == *sealed, "{name} opens, although it was altered");
    assert!(plain == PLAIN[index], "{name} holds something else");
});

fn edited(sealed: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = sealed.to_vec();
    let mut u = Unstructured::new(data);
    while let Ok(edit) = Edit::arbitrary(&mut u)
        && !u.is_empty()
    {
        let place = |at: u16| usize::from(at) % bytes.len().max(1);
        match edit {
            Edit::Flip { at, bits } => {
                let at = place(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Edit::Cut { len } => bytes.truncate(usize::from(len)),
            Edit::Append { bytes: more } => bytes.extend_from_slice(&more),
            Edit::Copy { from, start, to, len } => {
                let (_, from) = &OBJECTS[usize::from(from) % OBJECTS.len()];
                let start = usize::from(start) % from.len();
                let part = &from[start..(start + usize::from(len)).min(from.len())];
                let to = place(to);
                let len = part.len().min(bytes.len() - to);
                bytes[to..to + len].copy_from_slice(&part[..len]);
            }
            Edit::Insert { at, byte } => bytes.insert(place(at), byte),
            Edit::Remove { at, len } => {
                let at = place(at);
                bytes.drain(at..(at + usize::from(len)).min(bytes.len()));
            }
        }
    }
    bytes
}

/// Every part of an object.
#[derive(PartialEq, Eq)]
enum Opened {
    Record(Kind, Vec<u8>),
    Segment(Parts),
}

fn open(name: &str, bytes: &[u8]) -> Result<Opened, DecodeError> {
    let record = open_record(&ring(), name, bytes);
    if Opener::new(&ring(), name, bytes)?.kind == Kind::Segment {
        assert!(record.is_err(), "an object with cells is no record");
        return Parts::open(name, bytes).map(Opened::Segment);
    }
    record.map(|(kind, body)| Opened::Record(kind, body))
}
