//! The directory of local block maps: one per disk, and those that are being written for a point that is not
//! committed yet.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::map_file::{MapReader, MapWriter};
use crate::durable;

/// What a map's name ends with. Names of disks may contain anything else.
const SUFFIX: &str = ".map";
const PENDING: &str = ".pending-";

/// `maps/` of the state directory.
#[derive(Debug)]
pub(crate) struct MapStore {
    dir: PathBuf,
}

/// A map whose point is not committed. Dropping it removes it.
#[derive(Debug)]
pub(super) struct PendingMap {
    writer: Option<MapWriter>,
    path: PathBuf,
    target: PathBuf,
}

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

    /// The map of this disk if it is the named one.
    pub(super) fn open(&self, disk: &str, map_id: &[u8], block_count: u64) -> Option<MapReader> {
        MapReader::open(&self.path(disk), map_id, block_count)
    }

    /// Begins a new map beside the one in force.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn begin(&self, disk: &str) -> io::Result<PendingMap> {
        let path = self.dir.join(format!("{disk}{PENDING}{}", uuid::Uuid::new_v4()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(PendingMap { writer: Some(MapWriter::create(file)?), path, target: self.path(disk) })
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
    pub(super) fn writer(&mut self) -> io::Result<&mut MapWriter> {
        self.writer.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Puts the map in force. Only when its point is committed.
    ///
    /// # Errors
    /// Of the file system; the old map stays, which then has the wrong id.
    pub(super) fn activate(mut self, map_id: [u8; 32]) -> io::Result<()> {
        let writer = self.writer.take().ok_or(io::ErrorKind::BrokenPipe)?;
        writer.seal(map_id)?;
        std::fs::rename(&self.path, &self.target)?;
        self.target.parent().map_or(Ok(()), durable::sync_directory)
    }
}

impl Drop for PendingMap {
    fn drop(&mut self) {
        // Gone already if it was activated.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_counts_only_once_it_is_activated_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = MapStore::new(dir.path());
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        for (disk, id) in [("a", 1), ("a.pending-x", 2)] {
            let mut pending = store.begin(disk).unwrap();
            pending.writer().unwrap().hashes(&[1, 2, 3]).unwrap();
            assert!(store.open(disk, &[id; 32], 3).is_none());
            pending.activate([id; 32]).unwrap();
            assert!(store.open(disk, &[id; 32], 3).is_some());
        }
        drop(store.begin("a").unwrap());
        assert_eq!(count(), 2);
        std::mem::forget(store.begin("a").unwrap());
        assert_eq!(count(), 3);
        store.clear_pending();
        assert_eq!(count(), 2);
        store.discard("a");
        store.discard("a");
        assert_eq!(count(), 1);
    }
}
