//! The scan of one disk, on a thread of its own: read, hash, compare with the base, hand on what differs, and note every
//! hash for the next time.

use std::io;

use holdfast_vault_format::{BLOCK_SIZE, BlockHasher};
use tokio_util::sync::CancellationToken;

use super::base::{Base, Known};
use super::disk_wait::DiskWait;
use super::error::TransferError;
use super::gather::{Batch, Gatherer};
use super::map_run::RunError;
use super::map_store::PendingMap;
use super::meter::Meter;
use super::reader::{Reader, Span};
use crate::snapshot::SnapshotDisk;

/// Blocks that are read at once: 2 MiB.
const WINDOW_BLOCKS: u64 = 512;
/// Windows between two looks at the snapshot.
const WINDOWS_PER_CHECK: u64 = 16;
/// Blocks of a hole that are compared before the next look at the stop signal.
const HOLE_STEP_BLOCKS: u64 = 1 << 30;

/// A disk to scan, and everything that the scan needs.
pub(super) struct Scan<'a, S> {
    pub(super) disk: &'a SnapshotDisk,
    pub(super) wait: &'a DiskWait,
    pub(super) hasher: BlockHasher,
    pub(super) base: Base,
    pub(super) gatherer: Gatherer<S>,
    /// Absent if the state directory cannot take one.
    pub(super) map: Option<PendingMap>,
    pub(super) meter: &'a Meter,
    pub(super) stop: &'a CancellationToken,
}

/// A whole disk was scanned.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Bytes that were read and compared, holes not counted.
    pub(super) read_bytes: u64,
    pub(super) map: Option<PendingMap>,
}

/// How a block now compares with what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Data,
    Zeros,
}

impl<S: FnMut(Batch) -> Result<(), TransferError>> Scan<'_, S> {
    /// Scans the disk from its first block to its last.
    ///
    /// # Errors
    /// If the snapshot breaks, the disk or the local map cannot be read, or the pass stops.
    pub(super) fn run(mut self) -> Result<Scanned, TransferError> {
        let mut reader = Reader::new(self.disk);
        let block_count = reader.block_count();
        let mut buffer = vec![0; usize::try_from(WINDOW_BLOCKS).unwrap_or(0) * BLOCK_SIZE];
        let (mut block, mut windows, mut read_bytes) = (0, 0_u64, 0);
        while block < block_count {
            if self.stop.is_cancelled() {
                return Err(TransferError::Stopped);
            }
            if windows.is_multiple_of(WINDOWS_PER_CHECK) {
                self.wait.during(|| self.disk.check())?;
            }
            windows += 1;
            let span =
                self.wait.during(|| reader.span(block)).map_err(|source| self.read_error(block, source))?;
            block = match span {
                Span::Hole { end } => {
                    let end = end.min(block + HOLE_STEP_BLOCKS);
                    self.hole(block, end)?;
                    end
                }
                Span::Data { end } => {
                    let end = end.min(block - block % WINDOW_BLOCKS + WINDOW_BLOCKS);
                    let length = usize::try_from(end - block).unwrap_or(0) * BLOCK_SIZE;
                    let window = &mut buffer[..length];
                    self.wait
                        .during(|| reader.read(block, window))
                        .map_err(|source| self.read_error(block, source))?;
                    read_bytes += (length as u64).min(self.disk.size_bytes - block * BLOCK_SIZE as u64);
                    self.window(block, window)?;
                    end
                }
            };
        }
        self.wait.during(|| self.disk.check())?;
        self.gatherer.finish()?;
        Ok(Scanned { read_bytes, map: self.map })
    }

    /// All blocks up to `end` are zeros.
    fn hole(&mut self, first: u64, end: u64) -> Result<(), TransferError> {
        let mut block = first;
        while block < end {
            let known = self.known(block, end - block)?;
            let count = known.block_count();
            match &known {
                Known::Zeros(_) => {}
                Known::Nothing(_) => self.gatherer.zeros(block, count)?,
                Known::Hashes(_) => {
                    for index in 0..count {
                        let hash = usize::try_from(index).ok().and_then(|index| known.hash(index));
                        if hash != Some(0) {
                            self.meter.changed(BLOCK_SIZE as u64);
                            self.gatherer.zeros(block + index, 1)?;
                        }
                    }
                }
            }
            block += count;
        }
        self.note(|map| map.zeros(end - first));
        self.meter.read((end - first) * BLOCK_SIZE as u64);
        Ok(())
    }

    fn window(&mut self, first: u64, data: &[u8]) -> Result<(), TransferError> {
        let hashes: Vec<u64> = data.chunks_exact(BLOCK_SIZE).map(|block| self.hasher.hash(block)).collect();
        let mut done = 0;
        while done < hashes.len() {
            let known = self.known(first + done as u64, (hashes.len() - done) as u64)?;
            let count = usize::try_from(known.block_count()).unwrap_or(0).clamp(1, hashes.len() - done);
            self.compare(
                first + done as u64,
                &hashes[done..done + count],
                &known,
                &data[done * BLOCK_SIZE..],
            )?;
            done += count;
        }
        self.note(|map| map.hashes(&hashes));
        self.meter.read(data.len() as u64);
        Ok(())
    }

    /// Hands on the runs of blocks that differ.
    fn compare(&mut self, first: u64, now: &[u64], known: &Known, data: &[u8]) -> Result<(), TransferError> {
        let mut index = 0;
        while index < now.len() {
            let change = change(now[index], known.hash(index));
            let end = (index + 1..now.len())
                .find(|next| self::change(now[*next], known.hash(*next)) != change)
                .unwrap_or(now.len());
            let (block, bytes) = (first + index as u64, (end - index) * BLOCK_SIZE);
            match change {
                Change::None => {}
                Change::Data => {
                    self.meter.changed(bytes as u64);
                    let start = index * BLOCK_SIZE;
                    self.gatherer.data(block, &data[start..start + bytes])?;
                }
                Change::Zeros => {
                    // Zeros where nothing was before are no change to speak of.
                    if !matches!(known, Known::Nothing(_)) {
                        self.meter.changed(bytes as u64);
                    }
                    self.gatherer.zeros(block, (end - index) as u64)?;
                }
            }
            index = end;
        }
        Ok(())
    }

    fn known(&mut self, first: u64, count: u64) -> Result<Known, TransferError> {
        self.base.known(first, count).map_err(|error| match error {
            RunError::Damaged => TransferError::MapDamaged { disk: self.disk.name.clone() },
            RunError::Stopped => TransferError::Stopped,
        })
    }

    /// Writes to the new map. Without a map the next backup fetches it: never a reason to fail this one.
    fn note(&mut self, write: impl FnOnce(&mut PendingMap) -> io::Result<()>) {
        if let Some(map) = &mut self.map
            && let Err(error) = write(map)
        {
            tracing::warn!(disk = self.disk.name, %error, "cannot write the local block map");
            self.map = None;
        }
    }

    fn read_error(&self, block: u64, source: io::Error) -> TransferError {
        // A disk that got shorter has been written to: that is the better reason.
        match self.disk.check() {
            Err(broken) => broken.into(),
            Ok(()) => {
                let offset = block * BLOCK_SIZE as u64;
                TransferError::Read { disk: self.disk.name.clone(), offset, source }
            }
        }
    }
}

fn change(now: u64, known: Option<u64>) -> Change {
    match (now, known) {
        (now, Some(known)) if now == known => Change::None,
        (0, _) => Change::Zeros,
        _ => Change::Data,
    }
}

#[cfg(test)]
mod tests;
