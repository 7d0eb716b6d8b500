//! Names of objects. Numbers are padded, so that a listing is in their order.

use object_store::path::Path;
use uuid::Uuid;

pub(crate) const HEADER: &str = "vault.json";

pub(crate) fn key(id: Uuid) -> String {
    format!("keys/{id}")
}

/// Keys wrapped for one more recipient.
pub(crate) fn recipient(key: Uuid, recipient: Uuid) -> String {
    format!("keys/{key}.{recipient}")
}

/// The recipient in the name of an object under `keys/`.
pub(crate) fn recipient_of(path: &Path, key: Uuid) -> Option<Uuid> {
    let (of, recipient) = path.filename()?.split_once('.')?;
    let recipient = Uuid::parse_str(recipient).ok()?;
    (of == key.to_string() && path.filename()?.ends_with(&recipient.to_string())).then_some(recipient)
}

/// That a recipient is removed; numbers start at 1.
pub(crate) fn removal(key: Uuid, number: u32) -> String {
    format!("keys/{key}.{number:08}")
}

/// The number in the name of a removal.
pub(crate) fn removal_of(path: &Path, key: Uuid) -> Option<u32> {
    let (of, number) = path.filename()?.split_once('.')?;
    if of != key.to_string() || number.len() != 8 || !is_digits(number) {
        return None;
    }
    number.parse().ok()
}

/// What a storage is tried with.
pub(crate) const PROBES: &str = "probe";

pub(crate) fn probe(id: Uuid) -> String {
    format!("{PROBES}/{id}")
}

pub(crate) fn open(machine: Uuid, seq: u64) -> String {
    format!("open/{machine}/{seq:020}")
}

pub(crate) fn point(machine: Uuid, seq: u64) -> String {
    format!("points/{machine}/{seq:020}")
}

/// A decision about a point; numbers start at 1.
pub(crate) fn event(machine: Uuid, seq: u64, number: u32) -> String {
    format!("points/{machine}/{seq:020}.{number:08}")
}

pub(crate) fn collection(epoch: u64) -> String {
    format!("gc/{epoch:020}")
}

/// What a collection condemned.
pub(crate) fn condemned(epoch: u64) -> String {
    format!("gc/{epoch:020}.set")
}

/// That what a collection condemned is gone.
pub(crate) fn collected(epoch: u64) -> String {
    format!("gc/{epoch:020}.done")
}

pub(crate) fn segment(machine: Uuid, seq: u64, number: u32, generation: u32) -> String {
    format!("seg/{machine}/{seq:020}/{number:08}.{generation}")
}

/// Whether it is the name of a segment.
pub(crate) fn is_segment(name: &str) -> bool {
    name.starts_with("seg/")
}

/// The sequence number that a name of `open/` or `points/` ends with. Other files, such as a temporary one of a writer
/// that was killed, are none of ours; nor is what lies in folders of somebody else's.
pub(crate) fn seq_of(path: &Path) -> Option<u64> {
    parse_seq(in_folder(path, 2)?)
}

/// The last part of a path that goes through so many folders.
fn in_folder(path: &Path, depth: usize) -> Option<&str> {
    if path.parts().count() == depth + 1 { path.filename() } else { None }
}

/// A sequence number as names have it: twenty digits.
pub(crate) fn parse_seq(text: &str) -> Option<u64> {
    if text.len() == 20 && is_digits(text) { text.parse().ok() } else { None }
}

/// Sequence number and number of an event's name.
pub(crate) fn event_of(path: &Path) -> Option<(u64, u32)> {
    let (seq, number) = in_folder(path, 2)?.split_once('.')?;
    if number.len() != 8 || !is_digits(number) {
        return None;
    }
    Some((parse_seq(seq)?, number.parse().ok()?))
}

/// The sequence number in a path that goes through the folder of a backup.
pub(crate) fn seq_folder_of(path: &Path) -> Option<u64> {
    path.parts().nth_back(1).and_then(|part| parse_seq(part.as_ref()))
}

/// Number and generation of a segment's name.
pub(crate) fn segment_of(path: &Path) -> Option<(u32, u32)> {
    parse_segment(in_folder(path, 3)?)
}

/// Whether a file's name is what a segment's is while it is written: followed by `#` and a number.
pub(crate) fn is_staged_segment(text: &str) -> bool {
    text.split_once('#').is_some_and(|(segment, count)| {
        parse_segment(segment).is_some() && !count.is_empty() && is_digits(count)
    })
}

fn parse_segment(text: &str) -> Option<(u32, u32)> {
    let (number, generation) = text.split_once('.')?;
    if number.len() != 8 || !is_digits(number) || !is_digits(generation) {
        return None;
    }
    Some((number.parse().ok()?, generation.parse().ok()?))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_where_it_belongs_is_ours() {
        let machine = Uuid::from_u128(7);
        let path = |name: &str| Path::from(name);
        for name in [open(machine, 12), point(machine, 12)] {
            assert_eq!(seq_of(&path(&name)), Some(12));
            assert_eq!(seq_of(&path(&name.replacen('/', "/x/", 1))), None);
            assert_eq!(seq_of(&path(&format!("{name}/{:020}", 3))), None);
        }
        assert_eq!(event_of(&path(&event(machine, 12, 3))), Some((12, 3)));
        assert_eq!(event_of(&path(&format!("points/{machine}/x/{:020}.{:08}", 12, 3))), None);
        let segment = segment(machine, 12, 3, 1);
        assert_eq!((segment_of(&path(&segment)), seq_folder_of(&path(&segment))), (Some((3, 1)), Some(12)));
        assert_eq!(segment_of(&path(&segment.replacen('/', "/x/", 1))), None);
    }
}
