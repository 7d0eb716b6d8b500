use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use holdfast_vault_format::BLOCK_SIZE;
use holdfast_vault_format::block::blocks_of;

use crate::error::CliError;

/// Between two syncs: the last one has little left to wait for, and the machine's memory does not fill with what is not written yet.
const SYNC_BYTES: u64 = 64 << 20;

/// `FILE.partial` while it is written. It is removed unless it is finished.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    size_bytes: u64,
    /// Bytes, zeros left out.
    written: AtomicU64,
    overwrite: bool,
    /// Each block has to come exactly once.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Runs of blocks, by the first one, with the block after the last one. Neighbours are joined: blocks come nearly in
    /// order, so there are few, however large the disk is said to be.
    runs: BTreeMap<u64, u64>,
    count: u64,
    finished: bool,
}

/// Refuses a file that exists, unless it may be replaced. Devices, links and folders are never replaced.
pub(crate) fn check(path: &Path, overwrite: bool) -> Result<(), CliError> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => Err(CliError::TargetNotAFile { path: path.to_owned() }),
        Ok(_) if !overwrite => Err(CliError::TargetExists { path: path.to_owned() }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(CliError::Target { operation: "look at", path: path.to_owned(), source }),
    }
}

impl Target {
    pub(crate) fn create(path: &Path, size_bytes: u64, overwrite: bool) -> Result<Self, CliError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let failed = |source| CliError::Target { operation: "create", path: partial.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial)
            .map_err(failed)?;
        // A leftover of a killed restore is taken over; one that is being written is not.
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(CliError::TargetBusy { path: path.to_owned() });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        // From here on the file is this restore's, and goes with it.
        let (path, partial) = (path.to_owned(), partial.clone());
        let target = Self {
            path,
            partial,
            file,
            size_bytes,
            written: AtomicU64::new(0),
            overwrite,
            seen: Mutex::default(),
        };
        let emptied = target.file.set_len(0).and_then(|()| target.file.set_len(size_bytes));
        emptied.map_err(|source| target.failed("make room in", source))?;
        Ok(target)
    }

    /// Writes blocks; what is beyond the disk's end is padding.
    pub(crate) fn write(&self, first_block: u64, bytes: &[u8]) -> Result<(), CliError> {
        self.claim(first_block, (bytes.len() / BLOCK_SIZE) as u64)?;
        let at = first_block * BLOCK_SIZE as u64;
        let len = usize::try_from(self.size_bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
        self.file.write_all_at(&bytes[..len], at).map_err(|source| self.failed("write", source))?;
        let before = self.written.fetch_add(len as u64, Ordering::Relaxed);
        if before / SYNC_BYTES != (before + len as u64) / SYNC_BYTES {
            self.file.sync_data().map_err(|source| self.failed("write", source))?;
        }
        Ok(())
    }

    /// Zeros are holes: the file was made of nothing else.
    pub(crate) fn zeros(&self, first_block: u64, block_count: u64) -> Result<(), CliError> {
        self.claim(first_block, block_count)
    }

    fn claim(&self, first_block: u64, block_count: u64) -> Result<(), CliError> {
        let bad = |detail: &str| CliError::BadStream { detail: detail.to_owned() };
        let end = first_block.checked_add(block_count).filter(|end| *end <= blocks_of(self.size_bytes));
        let end = end.ok_or_else(|| bad("a block outside the disk"))?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.claim(first_block, end) { Ok(()) } else { Err(bad("a block came twice")) }
    }

    /// Makes the file durable and gives it its name.
    pub(crate) fn finish(&self) -> Result<(), CliError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.count != blocks_of(self.size_bytes) {
            return Err(CliError::BadStream { detail: "blocks are missing".to_owned() });
        }
        self.file.sync_all().map_err(|source| self.failed("write", source))?;
        if self.overwrite {
            std::fs::rename(&self.partial, &self.path).map_err(|source| self.failed("rename", source))?;
        } else {
            // Unlike a rename, a link never replaces what somebody put there meanwhile.
            match std::fs::hard_link(&self.partial, &self.path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    return Err(CliError::TargetExists { path: self.path.clone() });
                }
                other => other.map_err(|source| self.failed("name", source))?,
            }
            std::fs::remove_file(&self.partial).map_err(|source| self.failed("rename", source))?;
        }
        let folder =
            self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| self.failed("sync the folder of", source))?;
        seen.finished = true;
        Ok(())
    }

    fn failed(&self, operation: &'static str, source: std::io::Error) -> CliError {
        CliError::Target { operation, path: self.partial.clone(), source }
    }
}

impl Seen {
    /// Whether none of these blocks came before.
    fn claim(&mut self, first: u64, end: u64) -> bool {
        let before = self.runs.range(..=first).next_back().map(|(start, end)| (*start, *end));
        let next = self.runs.range(first..).next().map(|(start, _)| *start);
        if first == end {
            return true;
        }
        if before.is_some_and(|(_, before)| before > first) || next.is_some_and(|next| next < end) {
            return false;
        }
        let start = before.filter(|(_, before)| *before == first).map_or(first, |(start, _)| start);
        let joined = if next == Some(end) { self.runs.remove(&end) } else { None };
        self.runs.insert(start, joined.unwrap_or(end));
        self.count += end - first;
        true
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).finished {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: [u8; BLOCK_SIZE] = [7; BLOCK_SIZE];

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn only_a_whole_disk_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let size = 3 * BLOCK_SIZE as u64 - 100;
        let target = Target::create(&path, size, false).unwrap();
        target.write(2, &BLOCK).unwrap();
        target.zeros(0, 1).unwrap();
        let refused = |result: Result<(), CliError>, why: &str| match result {
            Err(CliError::BadStream { detail }) => assert_eq!(detail, why),
            other => panic!("{why}: {other:?}"),
        };
        refused(target.finish(), "blocks are missing");
        for (first, count) in [(2, 1), (0, 2)] {
            refused(target.zeros(first, count), "a block came twice");
        }
        for (first, count) in [(3, 1), (u64::MAX, 2)] {
            refused(target.zeros(first, count), "a block outside the disk");
        }
        drop(target);
        assert!(names(folder.path()).is_empty());

        let target = Target::create(&path, size, false).unwrap();
        target.zeros(0, 2).unwrap();
        target.write(2, &BLOCK).unwrap();
        target.finish().unwrap();
        drop(target);
        assert_eq!(names(folder.path()), ["disk"]);
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found.len() as u64, size);
        assert!(found[..2 * BLOCK_SIZE].iter().all(|byte| *byte == 0));
        assert!(found[2 * BLOCK_SIZE..].iter().all(|byte| *byte == 7));
    }

    /// What a controller says is no reason to take memory for it, to work on it for hours, or to leave a file.
    #[test]
    fn a_disk_may_have_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for size in [1 << 40, 1 << 43, i64::MAX as u64, u64::MAX] {
            // The file system may refuse it.
            let Ok(target) = Target::create(&path, size, false) else { continue };
            target.zeros(0, blocks_of(size) - 1).unwrap();
            target.zeros(blocks_of(size) - 2, 1).unwrap_err();
            target.zeros(blocks_of(size) - 1, 1).unwrap();
            assert_eq!(target.seen.lock().unwrap().runs.len(), 1);
        }
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn each_block_comes_once_in_whatever_order() {
        let mut random = 1_u64;
        for _ in 0..200 {
            let (mut seen, mut model) = (Seen::default(), [false; 40]);
            for _ in 0..60 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let first = (random >> 33) % 40;
                let end = (first + (random >> 60)).min(40);
                let blocks = &mut model[usize::try_from(first).unwrap()..usize::try_from(end).unwrap()];
                let fresh = blocks.iter().all(|seen| !seen);
                assert_eq!(seen.claim(first, end), fresh);
                if fresh {
                    blocks.fill(true);
                }
                assert_eq!(seen.count, model.iter().filter(|seen| **seen).count() as u64);
            }
            let starts = (0..40).filter(|at| model[*at] && (*at == 0 || !model[at - 1])).count();
            assert_eq!(seen.runs.len(), starts, "neighbours are joined");
        }
    }

    #[test]
    fn nothing_is_replaced_unasked_however_late_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let target = Target::create(&path, 0, false).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(target.finish(), Err(CliError::TargetExists { .. })));
        drop(target);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert!(matches!(check(&path, false), Err(CliError::TargetExists { .. })));
        assert!(matches!(check(folder.path(), true), Err(CliError::TargetNotAFile { .. })));
        check(&path, true).unwrap();
        let target = Target::create(&path, 1, true).unwrap();
        target.zeros(0, 1).unwrap();
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0]);
    }

    #[test]
    fn a_leftover_is_taken_over_and_a_running_restore_is_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(folder.path().join("disk.partial"), vec![9; 50_000]).unwrap();
        let target = Target::create(&path, 10, false).unwrap();
        assert!(matches!(Target::create(&path, 10, false), Err(CliError::TargetBusy { .. })));
        target.zeros(0, 1).unwrap();
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 10]);
    }
}
