//! The directory of local block maps: one per disk, and what is being written for points that are not committed yet.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::base::{Cursor, Known, RunSource};
use super::map_file::{MapKey, MapLog, RecordWriter};
use super::map_run::{MapBlocks, RunError};
use crate::durable;

/// What a map's name ends with. Names of disks may contain anything else.
const SUFFIX: &str = ".map";
const PENDING: &str = ".pending-";

/// `maps/` of the state directory.
#[derive(Debug)]
pub(crate) struct MapStore {
    dir: PathBuf,
}

/// What the map of a point will say that is not committed. It is told every block in block order. Dropping it leaves
/// the map in force as it is.
#[derive(Debug)]
pub(super) struct PendingMap {
    record: RecordWriter,
    file: PendingFile,
    key: MapKey,
    target: PathBuf,
    under: Option<Under>,
    /// Blocks that it was told.
    block_count: u64,
}

/// The map in force, of which the record says what changed.
#[derive(Debug)]
struct Under {
    log: MapLog,
    blocks: Cursor,
}

/// Goes when it is dropped, unless it was renamed.
#[derive(Debug)]
struct PendingFile(PathBuf);

impl MapStore {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Removes what a crash left of unfinished maps. Only at start.
    pub(crate) fn clear_pending(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.contains(PENDING)
                && !name.ends_with(SUFFIX)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished block map");
            }
        }
    }

    /// The map of this disk if it is the named one and its hashes are under this key.
    pub(super) fn open(
        &self,
        disk: &str,
        block_hash_key: &[u8; 32],
        map_id: &[u8],
        block_count: u64,
    ) -> Option<MapLog> {
        MapLog::open(&self.path(disk), MapKey::new(block_hash_key, disk), map_id, block_count)
    }

    /// Begins a map that takes the place of the one in force.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn begin(&self, disk: &str, block_hash_key: &[u8; 32]) -> io::Result<PendingMap> {
        PendingMap::create(&self.path(disk), MapKey::new(block_hash_key, disk))
    }

    /// Begins a map that says what changed since `log`, the one in force.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn begin_changes(
        &self,
        disk: &str,
        block_hash_key: &[u8; 32],
        log: MapLog,
    ) -> io::Result<PendingMap> {
        let mut pending = self.begin(disk, block_hash_key)?;
        let blocks = Cursor::new(RunSource::Local(Box::new(log.reader())));
        pending.under = Some(Under { log, blocks });
        Ok(pending)
    }

    /// Forgets the map of this disk.
    pub(super) fn discard(&self, disk: &str) {
        let path = self.path(disk);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a block map");
        }
    }

    fn path(&self, disk: &str) -> PathBuf {
        self.dir.join(format!("{disk}{SUFFIX}"))
    }
}

impl PendingMap {
    fn create(target: &Path, key: MapKey) -> io::Result<Self> {
        let (file, path) = PendingFile::create(target)?;
        let record = RecordWriter::create(file, key)?;
        Ok(Self { record, file: path, key, target: target.to_owned(), under: None, block_count: 0 })
    }

    /// The hashes of the next blocks.
    ///
    /// # Errors
    /// Of the file, or of the map in force.
    pub(super) fn hashes(&mut self, hashes: &[u64]) -> io::Result<()> {
        let mut left = hashes;
        while !left.is_empty() {
            let known = self.known(left.len() as u64)?;
            let count = usize::try_from(known.block_count()).unwrap_or(0).clamp(1, left.len());
            for (index, hash) in left[..count].iter().enumerate() {
                if known.hash(index) != Some(*hash) {
                    self.record.hash(self.block_count + index as u64, *hash)?;
                }
            }
            self.block_count += count as u64;
            left = &left[count..];
        }
        Ok(())
    }

    /// The next blocks are zeros.
    ///
    /// # Errors
    /// Of the file, or of the map in force.
    pub(super) fn zeros(&mut self, count: u64) -> io::Result<()> {
        let end = self.block_count + count;
        while self.block_count < end {
            let known = self.known(end - self.block_count)?;
            let count = known.block_count().max(1);
            match &known {
                Known::Zeros(_) => {}
                Known::Nothing(_) => self.record.zeros(self.block_count, count)?,
                Known::Hashes(_) => {
                    for (index, block) in (self.block_count..self.block_count + count).enumerate() {
                        if known.hash(index) != Some(0) {
                            self.record.zeros(block, 1)?;
                        }
                    }
                }
            }
            self.block_count += count;
        }
        Ok(())
    }

    /// Puts the map in force. Only when its point is committed.
    ///
    /// # Errors
    /// Of the file system; the old map stays, which then has the wrong id.
    pub(super) fn activate(mut self, map_id: [u8; 32]) -> io::Result<()> {
        let body_bytes = self.record.finish()?;
        match self.under {
            None => {
                self.record.seal(map_id, self.block_count)?;
                std::fs::rename(&self.file.0, &self.target)?;
                self.target.parent().map_or(Ok(()), durable::sync_directory)
            }
            Some(Under { log, .. }) if log.takes(body_bytes) => {
                log.append(&self.target, self.record, map_id, self.block_count)
            }
            Some(Under { log, .. }) => {
                let mut whole = Self::create(&self.target, self.key)?;
                let mut runs = log.reader_under(self.record.into_reader(self.block_count)?, self.block_count);
                while let Some(run) = runs.next_run().map_err(damaged)? {
                    match run.blocks {
                        MapBlocks::Zeros(count) => whole.zeros(count)?,
                        MapBlocks::Hashes(hashes) => {
                            let (hashes, _) = hashes.as_chunks();
                            let hashes: Vec<u64> = hashes.iter().copied().map(u64::from_le_bytes).collect();
                            whole.hashes(&hashes)?;
                        }
                    }
                }
                whole.activate(map_id)
            }
        }
    }

    /// What the map in force says of the next blocks.
    fn known(&mut self, count: u64) -> io::Result<Known> {
        match &mut self.under {
            None => Ok(Known::Nothing(count)),
            Some(under) => under.blocks.known(self.block_count, count).map_err(damaged),
        }
    }
}

impl PendingFile {
    fn create(target: &Path) -> io::Result<(File, Self)> {
        let path = target.with_extension(format!("{}{}", &PENDING[1..], uuid::Uuid::new_v4()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((file, Self(path)))
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn damaged(_: RunError) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests;
