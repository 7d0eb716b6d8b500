//! The local block map: the hashes of a disk's blocks at its newest point, so that they need not be fetched. Every byte
//! is under a checksum; what does not check is not believed. The key of the hashes is not in it.
//!
//! ```text
//! header  magic 8 | salt 16 | map id 32 | block count 8 | checksum 32
//! chunk   first block 8 | kind 1 | count 8 | hashes 8 x count (kind 1 only) | checksum 32
//! end     block count 8 | kind 3 | 0 8 | checksum 32
//! ```
//! Integers are little endian. A checksum is BLAKE3 over salt, chunk number and all bytes of the part before it, so chunks
//! of other files or places do not pass.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

use super::base::{BaseError, HASH_BYTES, MapBlocks, MapRun};

const MAGIC: &[u8; 8] = b"HFMAP\0\0\x01";
const SALT_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 32;
const HEADER_BYTES: usize = 8 + SALT_BYTES + 32 + 8 + CHECKSUM_BYTES;
const CHUNK_HEAD_BYTES: usize = 8 + 1 + 8;
/// Most hashes of one chunk: half a MiB in memory.
const MAX_CHUNK_BLOCKS: u64 = 65_536;
/// From here on a run of zeros is shorter as a chunk of its own.
const MIN_ZERO_RUN: u64 = 64;

const KIND_HASHES: u8 = 1;
const KIND_ZEROS: u8 = 2;
const KIND_END: u8 = 3;

/// The number of a header's checksum; no chunk has it.
const HEADER_NUMBER: u64 = u64::MAX;

/// Writes a map in block order. It becomes valid with [`MapWriter::seal`].
#[derive(Debug)]
pub(super) struct MapWriter {
    file: BufWriter<File>,
    salt: [u8; SALT_BYTES],
    chunk: u64,
    /// Blocks that are in finished chunks.
    written: u64,
    hashes: Vec<u8>,
    zeros: u64,
}

impl MapWriter {
    /// # Errors
    /// Of the file.
    pub(super) fn create(file: File) -> io::Result<Self> {
        let mut file = BufWriter::new(file);
        file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        Ok(Self { file, salt: rand::random(), chunk: 0, written: 0, hashes: Vec::new(), zeros: 0 })
    }

    /// # Errors
    /// Of the file.
    pub(super) fn hashes(&mut self, hashes: &[u64]) -> io::Result<()> {
        for hash in hashes {
            if *hash == 0 {
                self.zeros(1)?;
                continue;
            }
            if self.zeros > 0 {
                self.end_zeros()?;
            }
            self.hashes.extend_from_slice(&hash.to_le_bytes());
            if self.hashes.len() as u64 == MAX_CHUNK_BLOCKS * HASH_BYTES as u64 {
                self.end_hashes()?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// Of the file.
    pub(super) fn zeros(&mut self, count: u64) -> io::Result<()> {
        if self.zeros < MIN_ZERO_RUN && self.zeros + count >= MIN_ZERO_RUN {
            self.end_hashes()?;
        }
        self.zeros += count;
        Ok(())
    }

    /// Ends the map and makes it durable under this id.
    ///
    /// # Errors
    /// Of the file.
    pub(super) fn seal(mut self, map_id: [u8; 32]) -> io::Result<()> {
        if self.zeros > 0 {
            self.end_zeros()?;
        }
        self.end_hashes()?;
        let block_count = self.written;
        self.write_chunk(KIND_END, 0, &[])?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&self.salt);
        header.extend_from_slice(&map_id);
        header.extend_from_slice(&block_count.to_le_bytes());
        let checksum = checksum(&self.salt, HEADER_NUMBER, &[&header]);
        header.extend_from_slice(&checksum);
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        // The chunks first: a header must never vouch for chunks that a power cut took.
        file.sync_all()?;
        file.write_all_at(&header, 0)?;
        file.sync_all()
    }

    fn end_zeros(&mut self) -> io::Result<()> {
        let count = std::mem::take(&mut self.zeros);
        if count >= MIN_ZERO_RUN {
            return self.write_chunk(KIND_ZEROS, count, &[]);
        }
        for _ in 0..count {
            self.hashes.extend_from_slice(&[0; HASH_BYTES]);
            if self.hashes.len() as u64 == MAX_CHUNK_BLOCKS * HASH_BYTES as u64 {
                self.end_hashes()?;
            }
        }
        Ok(())
    }

    fn end_hashes(&mut self) -> io::Result<()> {
        if self.hashes.is_empty() {
            return Ok(());
        }
        let mut hashes = std::mem::take(&mut self.hashes);
        self.write_chunk(KIND_HASHES, (hashes.len() / HASH_BYTES) as u64, &hashes)?;
        hashes.clear();
        self.hashes = hashes;
        Ok(())
    }

    fn write_chunk(&mut self, kind: u8, count: u64, payload: &[u8]) -> io::Result<()> {
        let head = chunk_head(self.written, kind, count);
        self.file.write_all(&head)?;
        self.file.write_all(payload)?;
        self.file.write_all(&checksum(&self.salt, self.chunk, &[&head, payload]))?;
        self.chunk += 1;
        self.written += count;
        Ok(())
    }
}

/// Reads a map in block order, a chunk at a time.
#[derive(Debug)]
pub(super) struct MapReader {
    file: BufReader<File>,
    salt: [u8; SALT_BYTES],
    chunk: u64,
    next_block: u64,
    block_count: u64,
}

impl MapReader {
    /// Opens the map if it is whole so far, has this id and so many blocks.
    pub(super) fn open(path: &Path, map_id: &[u8], block_count: u64) -> Option<Self> {
        let mut file = BufReader::with_capacity(1 << 18, File::open(path).ok()?);
        let header: [u8; HEADER_BYTES] = read_array(&mut file).ok()?;
        let (body, sum) = header.split_at_checked(HEADER_BYTES - CHECKSUM_BYTES)?;
        let (magic, rest) = body.split_at_checked(MAGIC.len())?;
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
        let (id, count) = rest.split_first_chunk::<32>()?;
        let count = u64::from_le_bytes(count.try_into().ok()?);
        let good = magic == MAGIC
            && checksum(salt, HEADER_NUMBER, &[body]) == sum
            && id == map_id
            && count == block_count;
        good.then_some(Self { file, salt: *salt, chunk: 0, next_block: 0, block_count })
    }

    /// The next blocks, or `None` after the last one.
    ///
    /// # Errors
    /// [`BaseError::Damaged`] if a byte is wrong or missing.
    pub(super) fn next_run(&mut self) -> Result<Option<MapRun>, BaseError> {
        self.read_chunk().map_err(|_| BaseError::Damaged)
    }

    fn read_chunk(&mut self) -> io::Result<Option<MapRun>> {
        let head: [u8; CHUNK_HEAD_BYTES] = read_array(&mut self.file)?;
        let (first, kind, count) = parse_head(&head);
        let left = self.block_count - self.next_block;
        let plausible = first == self.next_block
            && match kind {
                KIND_HASHES => (1..=left.min(MAX_CHUNK_BLOCKS)).contains(&count),
                KIND_ZEROS => (1..=left).contains(&count),
                KIND_END => count == 0 && left == 0,
                _ => false,
            };
        if !plausible {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = if kind == KIND_HASHES { usize::try_from(count).unwrap_or(0) * HASH_BYTES } else { 0 };
        let mut payload = vec![0; length];
        self.file.read_exact(&mut payload)?;
        let sum: [u8; CHECKSUM_BYTES] = read_array(&mut self.file)?;
        if checksum(&self.salt, self.chunk, &[&head, &payload]) != sum {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.chunk += 1;
        self.next_block += count;
        let blocks = match kind {
            KIND_HASHES => MapBlocks::Hashes(Bytes::from(payload)),
            KIND_ZEROS => MapBlocks::Zeros(count),
            _ => return Ok(None),
        };
        Ok(Some(MapRun { first_block: first, blocks }))
    }
}

fn chunk_head(first: u64, kind: u8, count: u64) -> [u8; CHUNK_HEAD_BYTES] {
    let mut head = [0; CHUNK_HEAD_BYTES];
    head[..8].copy_from_slice(&first.to_le_bytes());
    head[8] = kind;
    head[9..].copy_from_slice(&count.to_le_bytes());
    head
}

fn parse_head(head: &[u8; CHUNK_HEAD_BYTES]) -> (u64, u8, u64) {
    let mut first = [0; 8];
    first.copy_from_slice(&head[..8]);
    let mut count = [0; 8];
    count.copy_from_slice(&head[9..]);
    (u64::from_le_bytes(first), head[8], u64::from_le_bytes(count))
}

fn checksum(salt: &[u8; SALT_BYTES], number: u64, parts: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt).update(&number.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn read_array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
