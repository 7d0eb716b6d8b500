//! One record of a map: runs of blocks in block order, in chunks.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_vault_format::bytes::{Reader, Writer};

use super::append::Log;
use super::{CHECKSUM_BYTES, HEADER_BYTES, Header, MapKey, Record, SALT_BYTES};
use crate::transfer::map_run::{HASH_BYTES, MapBlocks, MapRun, RunError};

/// Most hashes of one run.
const MAX_RUN_BLOCKS: usize = 4096;
/// A payload of so many bytes makes a chunk.
const CHUNK_BYTES: usize = 16 << 10;
/// The longest payload: one that was a byte too short for a chunk, and a run with its two numbers.
const MAX_PAYLOAD_BYTES: usize = CHUNK_BYTES + MAX_RUN_BLOCKS * HASH_BYTES + 20;
const LENGTH_BYTES: usize = 4;
/// Below it a record stays in memory until it is put in its place.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes a record into a file of its own, from which it is put in force or appended.
#[derive(Debug)]
pub(in crate::transfer) struct RecordWriter {
    out: BufWriter<File>,
    key: MapKey,
    salt: [u8; SALT_BYTES],
    chunks: u64,
    body_bytes: u64,
    payload: Vec<u8>,
    /// The end of the last run that is in a payload.
    end: u64,
    open: Option<OpenRun>,
}

/// The run that the next blocks may still belong to.
#[derive(Debug)]
struct OpenRun {
    first: u64,
    /// Zeros if there are no hashes.
    hashes: Vec<u8>,
    zeros: u64,
}

impl RecordWriter {
    /// Begins a record. The file must be empty, readable and writable.
    ///
    /// # Errors
    /// Of the file.
    pub(in crate::transfer) fn create(file: File, key: MapKey) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        out.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        Ok(Self {
            out,
            key,
            salt: rand::random(),
            chunks: 0,
            body_bytes: 0,
            payload: Vec::new(),
            end: 0,
            open: None,
        })
    }

    /// Adds a block, which lies behind all that were added.
    ///
    /// # Errors
    /// Of the file.
    pub(in crate::transfer) fn hash(&mut self, block: u64, hash: u64) -> io::Result<()> {
        if hash == 0 {
            return self.zeros(block, 1);
        }
        let fits = self.open.as_ref().is_some_and(|open| {
            open.zeros == 0 && open.end() == block && open.hashes.len() < MAX_RUN_BLOCKS * HASH_BYTES
        });
        if !fits {
            self.end_run()?;
        }
        let open = self.open.get_or_insert_with(|| OpenRun { first: block, hashes: Vec::new(), zeros: 0 });
        open.hashes.extend_from_slice(&hash.to_le_bytes());
        Ok(())
    }

    /// Adds blocks of zeros, which lie behind all that were added.
    ///
    /// # Errors
    /// Of the file.
    pub(in crate::transfer) fn zeros(&mut self, first: u64, count: u64) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        if !self.open.as_ref().is_some_and(|open| open.zeros > 0 && open.end() == first) {
            self.end_run()?;
        }
        self.open.get_or_insert_with(|| OpenRun { first, hashes: Vec::new(), zeros: 0 }).zeros += count;
        Ok(())
    }

    /// Ends the record. Returns the length of its body in bytes.
    ///
    /// # Errors
    /// Of the file.
    pub(in crate::transfer) fn finish(&mut self) -> io::Result<u64> {
        self.end_run()?;
        self.end_chunk()?;
        Ok(self.body_bytes)
    }

    /// Makes the file of this record, which covers every block, a map of its own, durable under this id. To be renamed
    /// only then.
    ///
    /// # Errors
    /// Of the file.
    pub(in crate::transfer) fn seal(self, map_id: [u8; 32], block_count: u64) -> io::Result<()> {
        let header = self.header(map_id, block_count).encode(&self.key, &[0; CHECKSUM_BYTES]);
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let log = Log(&file);
        log.write(0, &header)?;
        log.sync()
    }

    /// Reads a finished record back before it is in force.
    ///
    /// # Errors
    /// Of the file.
    pub(in crate::transfer) fn into_reader(self, block_count: u64) -> io::Result<RecordReader> {
        let header = self.header([0; 32], block_count);
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let record = Record { start: 0, header, checksum: [0; CHECKSUM_BYTES] };
        Ok(RecordReader::new(Arc::new(file), self.key, &record, block_count))
    }

    /// The file, in which a finished body begins behind the place of the header, and the end of the body, which is not in it yet.
    pub(super) fn into_parts(self) -> io::Result<(File, Vec<u8>)> {
        let (file, buffered) = self.out.into_parts();
        Ok((file, buffered.map_err(io::Error::other)?))
    }

    pub(super) fn header(&self, map_id: [u8; 32], block_count: u64) -> Header {
        Header { salt: self.salt, map_id, block_count, body_bytes: self.body_bytes }
    }

    fn end_run(&mut self) -> io::Result<()> {
        let Some(run) = self.open.take() else { return Ok(()) };
        let mut head = Writer::new();
        head.varint(run.first - self.end);
        head.varint(run.count() * 2 + u64::from(run.zeros > 0));
        self.payload.extend_from_slice(&head.into_bytes());
        self.payload.extend_from_slice(&run.hashes);
        self.end = run.end();
        if self.payload.len() >= CHUNK_BYTES { self.end_chunk() } else { Ok(()) }
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        if self.payload.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        let checksum = chunk_checksum(&self.key, &self.salt, self.chunks, &self.payload);
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&self.payload)?;
        self.out.write_all(&checksum)?;
        self.chunks += 1;
        self.body_bytes += (LENGTH_BYTES + self.payload.len() + CHECKSUM_BYTES) as u64;
        self.payload.clear();
        Ok(())
    }
}

impl OpenRun {
    fn count(&self) -> u64 {
        self.zeros + (self.hashes.len() / HASH_BYTES) as u64
    }

    fn end(&self) -> u64 {
        self.first + self.count()
    }
}

/// Reads a record in block order, a chunk at a time.
#[derive(Debug)]
pub(in crate::transfer) struct RecordReader {
    file: Arc<File>,
    key: MapKey,
    salt: [u8; SALT_BYTES],
    /// Of the next chunk and of the body's end, in bytes.
    at: u64,
    end: u64,
    chunks: u64,
    /// What is left of the chunk's payload.
    payload: Bytes,
    next_block: u64,
    /// The first block that does not count.
    limit: u64,
}

impl RecordReader {
    /// Blocks from `limit` on are left out.
    pub(super) fn new(file: Arc<File>, key: MapKey, record: &Record, limit: u64) -> Self {
        Self {
            file,
            key,
            salt: record.header.salt,
            at: record.start + HEADER_BYTES as u64,
            end: record.end(),
            chunks: 0,
            payload: Bytes::new(),
            next_block: 0,
            limit,
        }
    }

    /// Leaves out the blocks from `limit` on, if it did not already.
    pub(super) fn limit_to(&mut self, limit: u64) {
        self.limit = self.limit.min(limit);
    }

    /// The next run, or `None` after the last one.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if a byte is wrong or missing.
    pub(super) fn next_run(&mut self) -> Result<Option<MapRun>, RunError> {
        if self.payload.is_empty() && self.at < self.end {
            self.payload = self.read_chunk().ok_or(RunError::Damaged)?;
        }
        if self.payload.is_empty() {
            return Ok(None);
        }
        let run = self.take_run().ok_or(RunError::Damaged)?;
        self.next_block = run.end();
        // Runs ascend: behind the limit there is nothing any more.
        Ok((run.first_block < self.limit).then(|| run.part(run.first_block, self.limit)))
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.payload.len()
    }

    fn read_chunk(&mut self) -> Option<Bytes> {
        let mut length = [0; LENGTH_BYTES];
        self.file.read_exact_at(&mut length, self.at).ok()?;
        let length = u32::from_le_bytes(length) as usize;
        let next = self.at + (LENGTH_BYTES + length + CHECKSUM_BYTES) as u64;
        if length == 0 || length > MAX_PAYLOAD_BYTES || next > self.end {
            return None;
        }
        let mut bytes = vec![0; length + CHECKSUM_BYTES];
        self.file.read_exact_at(&mut bytes, self.at + LENGTH_BYTES as u64).ok()?;
        let (payload, checksum) = bytes.split_at(length);
        if chunk_checksum(&self.key, &self.salt, self.chunks, payload) != checksum {
            return None;
        }
        bytes.truncate(length);
        self.chunks += 1;
        self.at = next;
        Some(bytes.into())
    }

    fn take_run(&mut self) -> Option<MapRun> {
        const WHAT: &str = "a run";
        let mut reader = Reader::new(&self.payload);
        let first_block = self.next_block.checked_add(reader.varint(WHAT).ok()?)?;
        let number = reader.varint(WHAT).ok()?;
        let head = self.payload.len() - reader.remaining();
        let (count, zeros) = (number / 2, number % 2 == 1);
        let hash_bytes = if zeros { 0 } else { usize::try_from(count).ok()?.checked_mul(HASH_BYTES)? };
        if count == 0 || hash_bytes > reader.remaining() || first_block.checked_add(count).is_none() {
            return None;
        }
        let mut run = self.payload.split_to(head + hash_bytes);
        let blocks = if zeros { MapBlocks::Zeros(count) } else { MapBlocks::Hashes(run.split_off(head)) };
        Some(MapRun { first_block, blocks })
    }
}

fn chunk_checksum(
    key: &MapKey,
    salt: &[u8; SALT_BYTES],
    number: u64,
    payload: &[u8],
) -> [u8; CHECKSUM_BYTES] {
    let length = payload.len() as u64;
    key.checksum(&[salt, &number.to_le_bytes(), &length.to_le_bytes(), payload])
}
