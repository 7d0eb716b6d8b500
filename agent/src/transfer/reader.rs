//! Reads a disk in block order without touching its holes and without filling the machine's page cache.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;

use holdfast_vault_format::BLOCK_SIZE;
use holdfast_vault_format::block::blocks_of;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use crate::snapshot::{Hold, SnapshotDisk};

/// Files below this size may stay in the page cache: they displace little, and others may need them there.
const CACHE_FRIENDLY_BYTES: u64 = 1 << 30;

/// A disk to read from.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    file: &'a File,
    size_bytes: u64,
    holes: Holes,
    cache: Cache,
    /// End of the data run that was found last.
    data_end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holes {
    Possible,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    Leave,
    Drop,
}

/// What lies at a block. Ends are block numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// Reads as zeros.
    Hole {
        end: u64,
    },
    Data {
        end: u64,
    },
}

impl<'a> Reader<'a> {
    pub(super) fn new(disk: &'a SnapshotDisk) -> Self {
        // Advice only: a kernel that ignores it still reads the right bytes.
        let _ = fadvise(&disk.file, 0, None, Advice::Sequential);
        let is_file = !matches!(disk.hold, Hold::Exclusive(_));
        // Nobody else reads a clone.
        let small = disk.hold == Hold::Lease && disk.size_bytes <= CACHE_FRIENDLY_BYTES;
        Self {
            file: &disk.file,
            size_bytes: disk.size_bytes,
            holes: if is_file { Holes::Possible } else { Holes::None },
            cache: if small { Cache::Leave } else { Cache::Drop },
            data_end: 0,
        }
    }

    /// Blocks of the disk, the cut-off last one included.
    pub(super) fn block_count(&self) -> u64 {
        blocks_of(self.size_bytes)
    }

    /// Whether a hole or data begins at this block, and where it ends.
    ///
    /// # Errors
    /// Of the seek.
    pub(super) fn span(&mut self, block: u64) -> io::Result<Span> {
        let last = self.block_count();
        if self.holes == Holes::None {
            return Ok(Span::Data { end: last });
        }
        if block < self.data_end {
            return Ok(Span::Data { end: self.data_end });
        }
        let block_bytes = BLOCK_SIZE as u64;
        let data = match seek(self.file, SeekFrom::Data(block * block_bytes)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(Span::Hole { end: last }),
            Err(Errno::INVAL) => {
                self.holes = Holes::None;
                return Ok(Span::Data { end: last });
            }
            Err(errno) => return Err(errno.into()),
        };
        // A hole may begin or end within a block of ours: such a block is read.
        if data / block_bytes > block {
            return Ok(Span::Hole { end: (data / block_bytes).min(last) });
        }
        let hole = seek(self.file, SeekFrom::Hole(data))?;
        self.data_end = blocks_of(hole).clamp(block + 1, last);
        Ok(Span::Data { end: self.data_end })
    }

    /// Fills the buffer from this block on; what lies behind the disk's end is zeros.
    ///
    /// # Errors
    /// Of the read; `UnexpectedEof` if the disk is shorter than it was.
    pub(super) fn read(&self, block: u64, buffer: &mut [u8]) -> io::Result<()> {
        let offset = block * BLOCK_SIZE as u64;
        let left = usize::try_from(self.size_bytes - offset).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let (inside, behind) = buffer.split_at_mut(length);
        self.file.read_exact_at(inside, offset)?;
        behind.fill(0);
        if self.cache == Cache::Drop {
            let _ = fadvise(self.file, offset, NonZeroU64::new(length as u64), Advice::DontNeed);
        }
        Ok(())
    }
}
