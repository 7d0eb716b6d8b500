//! Appends a record to a map, so that after a crash at any moment the map is the one before or the one after.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::record::RecordWriter;
use super::{HEADER_BYTES, MapLog, records_of};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 256 << 10;

impl MapLog {
    /// Appends a finished record to this map, which lies at `path`, and makes it durable under its new id.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` if another map lies there by now. The old map stays then.
    pub(in crate::transfer) fn append(
        &self,
        path: &Path,
        record: RecordWriter,
        map_id: [u8; 32],
        block_count: u64,
    ) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        if records_of(&file, &self.key) != self.records {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let header = record.header(map_id, block_count);
        let (body, tail) = record.into_parts()?;
        let (log, start) = (Log(&file), self.end());
        // What an append that was cut off has left.
        log.cut(start)?;
        let appended = (|| {
            let copied = copy(&body, &log, start, header.body_bytes - tail.len() as u64)?;
            log.write(start + HEADER_BYTES as u64 + copied, &tail)?;
            if header.body_bytes > 0 {
                // A header must never vouch for chunks that a power cut took.
                log.sync()?;
            }
            log.write(start, &header.encode(&self.key, &self.newest().checksum))?;
            log.sync()
        })();
        if appended.is_err() {
            // Best effort: without it the next record is written over the rest of this one.
            let _ = log.cut(start);
        }
        appended
    }
}

/// Copies the first bytes of a body that lies in a file of its own.
fn copy(body: &File, log: &Log<'_>, start: u64, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    while done < length {
        let size = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..size];
        body.read_exact_at(piece, HEADER_BYTES as u64 + done)?;
        log.write(start + HEADER_BYTES as u64 + done, piece)?;
        done += size as u64;
    }
    Ok(done)
}

/// The file of a map. Tests see what makes it valid, in order.
pub(super) struct Log<'a>(pub(super) &'a File);

impl Log<'_> {
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        super::journal::note(super::journal::Op::Write(at, bytes.to_vec()));
        self.0.write_all_at(bytes, at)
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        #[cfg(test)]
        super::journal::note(super::journal::Op::Cut(length));
        self.0.set_len(length)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        super::journal::note(super::journal::Op::Sync);
        self.0.sync_all()
    }
}
