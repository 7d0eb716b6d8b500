//! Names of objects. Numbers are padded, so that a listing is in their order.

use object_store::path::Path;
use uuid::Uuid;

pub(crate) const HEADER: &str = "vault.json";

pub(crate) fn key(id: Uuid) -> String {
    format!("keys/{id}")
}

pub(crate) fn open(machine: Uuid, seq: u64) -> String {
    format!("open/{machine}/{seq:020}")
}

pub(crate) fn point(machine: Uuid, seq: u64) -> String {
    format!("points/{machine}/{seq:020}")
}

pub(crate) fn segment(machine: Uuid, seq: u64, number: u32, generation: u32) -> String {
    format!("seg/{machine}/{seq:020}/{number:08}.{generation}")
}

/// The sequence number that a name of `open/` or `points/` ends with. Other files, such as a temporary one of a writer
/// that was killed, are none of ours.
pub(crate) fn seq_of(path: &Path) -> Option<u64> {
    let last = path.filename()?;
    if last.len() == 20 && last.bytes().all(|byte| byte.is_ascii_digit()) { last.parse().ok() } else { None }
}

/// Number and generation of a segment's name.
pub(crate) fn segment_of(path: &Path) -> Option<(u32, u32)> {
    let (number, generation) = path.filename()?.split_once('.')?;
    if number.len() != 8 || !number.bytes().chain(generation.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((number.parse().ok()?, generation.parse().ok()?))
}
