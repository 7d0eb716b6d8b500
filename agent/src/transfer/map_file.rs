//! The local block map: the hashes of a disk's blocks at its newest point, so that they need not be fetched. A log: a
//! record of the whole disk, and behind it one record per later point with the blocks that changed.
//!
//! ```text
//! file    record+                       the first one covers every block
//! record  header | chunk*
//! header  magic 8 | salt 16 | map id 32 | block count 8 | body bytes 8 | checksum 32
//! chunk   payload length 4 | payload | checksum 32
//! payload run+
//! run     gap varint | 2 x count + zeros varint | hashes 8 x count (unless zeros)
//! ```
//! Integers are little endian. A gap counts the blocks between the end of the run before, also of another chunk, and this
//! one. Checksums are BLAKE3 under a key that is derived from disk and key of the hashes, which itself is not in the file: a map
//! of other hashes is no map. A header's covers the checksum of the header before it, a chunk's the salt of its record
//! and its number there: nothing passes in another file or place.
//!
//! The header of an appended record is written when the body behind it is durable. What follows the last header that
//! checks does not count, and the next record is written over it.

mod append;
#[cfg(test)]
pub(super) mod journal;
mod merge;
mod record;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use holdfast_vault_format::bytes::{Reader, Writer};

pub(super) use merge::MapReader;
use record::RecordReader;
pub(super) use record::RecordWriter;

const MAGIC: &[u8; 8] = b"HFMAP\0\0\x02";
const SALT_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 32;
const HEADER_BYTES: usize = 8 + SALT_BYTES + 32 + 8 + 8 + CHECKSUM_BYTES;

/// Most appended records with a body: each takes a chunk of memory while the map is read.
const MAX_BODIES: usize = 64;
/// Most records at all. Those without a body, of points in which nothing changed, cost only their header.
const MAX_RECORDS: usize = 4096;
/// The appended records may take this part of the first one's bytes before they are merged into it ...
const APPENDED_PART: u64 = 4;
/// ... or so many bytes if that is more.
const MIN_APPENDED_BYTES: u64 = 64 << 10;

/// What the checksums of one disk's map are keyed with.
#[derive(Clone, Copy)]
pub(super) struct MapKey([u8; 32]);

/// A map whose headers all check, under the id of its last record. Chunks are checked as they are read.
#[derive(Debug, Clone)]
pub(super) struct MapLog {
    file: Arc<File>,
    key: MapKey,
    /// Oldest first, never empty.
    records: Vec<Record>,
}

/// A record in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// Of its header, in bytes.
    start: u64,
    header: Header,
    checksum: [u8; CHECKSUM_BYTES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    salt: [u8; SALT_BYTES],
    map_id: [u8; 32],
    /// Of the disk, whatever the record covers.
    block_count: u64,
    body_bytes: u64,
}

impl MapKey {
    /// The key for a disk whose blocks are hashed with `block_hash_key`.
    pub(super) fn new(block_hash_key: &[u8; 32], disk: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("Holdfast agent v1 local block map");
        hasher.update(block_hash_key).update(disk.as_bytes());
        Self(hasher.finalize().into())
    }

    fn checksum(&self, parts: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl std::fmt::Debug for MapKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MapKey")
    }
}

impl MapLog {
    /// Opens the map if it has this id and so many blocks.
    pub(super) fn open(path: &Path, key: MapKey, map_id: &[u8], block_count: u64) -> Option<Self> {
        let file = File::open(path).ok()?;
        let records = records_of(&file, &key);
        let newest = records.last()?.header;
        let good = newest.map_id == map_id && newest.block_count == block_count;
        good.then(|| Self { file: Arc::new(file), key, records })
    }

    /// Reads the whole map in block order.
    pub(super) fn reader(&self) -> MapReader {
        MapReader::new(self.newest().header.block_count, self.bodies())
    }

    /// Reads the map in block order as it is with `changes`, a finished record of a disk of so many blocks, laid over it.
    pub(super) fn reader_under(&self, changes: RecordReader, block_count: u64) -> MapReader {
        let mut bodies = self.bodies();
        for body in &mut bodies {
            body.limit_to(block_count);
        }
        bodies.push(changes);
        MapReader::new(block_count, bodies)
    }

    /// Whether a record of this size may be appended; otherwise it is time to write the map anew.
    pub(super) fn takes(&self, body_bytes: u64) -> bool {
        let first = self.records.first().map_or(0, Record::end);
        let appended = self.end() - first + HEADER_BYTES as u64 + body_bytes;
        let sizes = self.records.iter().skip(1).map(|record| record.header.body_bytes);
        let bodies = sizes.chain([body_bytes]).filter(|bytes| *bytes > 0).count();
        appended <= (first / APPENDED_PART).max(MIN_APPENDED_BYTES)
            && bodies <= MAX_BODIES
            && self.records.len() < MAX_RECORDS
    }

    /// Readers of all records that say anything, oldest first. What a later record cut off is not read.
    fn bodies(&self) -> Vec<RecordReader> {
        let mut limit = u64::MAX;
        let mut bodies = Vec::new();
        for (number, record) in self.records.iter().enumerate().rev() {
            limit = limit.min(record.header.block_count);
            if number == 0 || record.header.body_bytes > 0 {
                bodies.push(RecordReader::new(Arc::clone(&self.file), self.key, record, limit));
            }
        }
        bodies.reverse();
        bodies
    }

    fn newest(&self) -> &Record {
        &self.records[self.records.len() - 1]
    }

    /// Where the next record begins.
    fn end(&self) -> u64 {
        self.newest().end()
    }
}

impl Record {
    fn end(&self) -> u64 {
        self.start + HEADER_BYTES as u64 + self.header.body_bytes
    }
}

impl Header {
    /// With the checksum that binds it to the record before it.
    fn encode(&self, key: &MapKey, previous: &[u8; CHECKSUM_BYTES]) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(MAGIC);
        out.raw(&self.salt);
        out.raw(&self.map_id);
        out.u64(self.block_count);
        out.u64(self.body_bytes);
        let mut header = out.into_bytes();
        let checksum = key.checksum(&[previous, &header]);
        header.extend_from_slice(&checksum);
        header
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<(Self, [u8; CHECKSUM_BYTES])> {
        const WHAT: &str = "a header";
        let mut reader = Reader::new(bytes);
        if reader.raw(MAGIC.len(), WHAT).ok()? != MAGIC {
            return None;
        }
        let header = Self {
            salt: reader.array(WHAT).ok()?,
            map_id: reader.array(WHAT).ok()?,
            block_count: reader.u64(WHAT).ok()?,
            body_bytes: reader.u64(WHAT).ok()?,
        };
        Some((header, reader.array(WHAT).ok()?))
    }
}

/// The records from the file's start on whose headers check and whose bodies are there.
fn records_of(file: &File, key: &MapKey) -> Vec<Record> {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut records = Vec::new();
    let mut previous = [0; CHECKSUM_BYTES];
    let mut start = 0;
    while records.len() < MAX_RECORDS
        && let Some(record) = record_at(file, length, key, start, &previous)
    {
        (start, previous) = (record.end(), record.checksum);
        records.push(record);
    }
    records
}

fn record_at(
    file: &File,
    length: u64,
    key: &MapKey,
    start: u64,
    previous: &[u8; CHECKSUM_BYTES],
) -> Option<Record> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, start).ok()?;
    let (header, checksum) = Header::decode(&bytes)?;
    let left = length.checked_sub(start + HEADER_BYTES as u64)?;
    let good = header.encode(key, previous) == bytes && header.body_bytes <= left;
    good.then_some(Record { start, header, checksum })
}

#[cfg(test)]
mod tests;
