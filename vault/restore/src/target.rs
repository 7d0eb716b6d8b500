use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::{BLOCK_SIZE, Extent, is_zero};

use crate::partial::{self, failed, is_named};
use crate::seen::Seen;
use crate::{ContentError, RestoreError};

/// Between two syncs: the last one has little left to wait for, and the machine's memory does not fill with what is not written yet.
const SYNC_BYTES: u64 = 64 << 20;

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Keep,
    Replace,
}

/// `FILE.partial` while it is written. It is removed unless it is finished.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    size_bytes: u64,
    existing: Existing,
    /// Bytes, zeros left out.
    written: AtomicU64,
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    seen: Seen,
    finished: bool,
}

/// Refuses a file that exists, unless it may be replaced. Devices, links and folders are never replaced.
///
/// # Errors
/// Of these, or if that cannot be found out.
pub fn check(path: &Path, existing: Existing) -> Result<(), RestoreError> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => Err(RestoreError::NotAFile { path: path.to_owned() }),
        Ok(_) if existing == Existing::Keep => Err(RestoreError::Exists { path: path.to_owned() }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("look at", path, source)),
    }
}

impl Target {
    /// Makes `FILE.partial` as one hole of this size.
    ///
    /// # Errors
    /// If another restore is writing it, something else has its name, or the file system refuses; nothing is left then.
    pub fn create(path: &Path, size_bytes: u64, existing: Existing) -> Result<Self, RestoreError> {
        let name = path.file_name().ok_or_else(|| RestoreError::NotAFile { path: path.to_owned() })?;
        let mut name = name.to_owned();
        name.push(".partial");
        let (path, partial) = (path.to_owned(), path.with_file_name(name));
        let file = partial::create(&partial, &path)?;
        // From here on the file goes with it.
        let target = Self {
            path,
            partial,
            file,
            size_bytes,
            existing,
            written: AtomicU64::new(0),
            blocks: Mutex::default(),
        };
        target.file.set_len(size_bytes).map_err(|source| target.failed("make room in", source))?;
        Ok(target)
    }

    /// Zeros are holes: the file was made of nothing else.
    ///
    /// # Errors
    /// If these blocks came already, or the disk does not have them.
    pub fn zeros(&self, extent: Extent) -> Result<(), RestoreError> {
        let end = extent.end().filter(|end| *end <= blocks_of(self.size_bytes));
        let end = end.ok_or(ContentError::Outside)?;
        if self.blocks().seen.claim(extent.first_block, end) {
            Ok(())
        } else {
            Err(ContentError::Twice.into())
        }
    }

    /// Writes whole blocks; those of zeros stay holes, and what is beyond the disk's end is padding.
    pub(crate) fn write(&self, first_block: u64, content: &[u8]) -> Result<(), RestoreError> {
        self.zeros(Extent { first_block, block_count: (content.len() / BLOCK_SIZE) as u64 })?;
        let mut at = first_block * BLOCK_SIZE as u64;
        for run in runs(content) {
            let len =
                usize::try_from(self.size_bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(run.len());
            if !is_zero(run) {
                self.file.write_all_at(&run[..len], at).map_err(|source| self.failed("write", source))?;
                self.sync_now_and_then(len as u64)?;
            }
            at += run.len() as u64;
        }
        Ok(())
    }

    fn sync_now_and_then(&self, len: u64) -> Result<(), RestoreError> {
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before / SYNC_BYTES != (before + len) / SYNC_BYTES {
            self.file.sync_data().map_err(|source| self.failed("write", source))?;
        }
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// If blocks are missing, something has the name that may not be replaced, or the file system refuses.
    pub fn finish(&self) -> Result<(), RestoreError> {
        let mut blocks = self.blocks();
        if blocks.seen.count() != blocks_of(self.size_bytes) {
            return Err(ContentError::Missing.into());
        }
        self.file.sync_all().map_err(|source| self.failed("write", source))?;
        self.publish()?;
        blocks.finished = true;
        let folder = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))
            .and_then(|folder| folder.sync_all())
            .map_err(|source| self.failed("sync the folder of", source))
    }

    fn publish(&self) -> Result<(), RestoreError> {
        let ours = is_named(&self.file, &self.partial).map_err(|source| self.failed("name", source))?;
        if !ours {
            return Err(self.failed("name", io::Error::other("it was replaced while it was written")));
        }
        // It may have appeared since the first look.
        check(&self.path, self.existing)?;
        let rename =
            || std::fs::rename(&self.partial, &self.path).map_err(|source| self.failed("rename", source));
        if self.existing == Existing::Replace {
            return rename();
        }
        // Unlike a rename, a link never replaces what somebody put there meanwhile.
        match std::fs::hard_link(&self.partial, &self.path) {
            Ok(()) => std::fs::remove_file(&self.partial).map_err(|source| self.failed("rename", source)),
            Err(error) => match error.kind() {
                io::ErrorKind::AlreadyExists => Err(RestoreError::Exists { path: self.path.clone() }),
                // File systems without links.
                io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied => rename(),
                _ => Err(self.failed("name", error)),
            },
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> RestoreError {
        failed(operation, &self.partial, source)
    }
}

/// Blocks next to each other that are all zeros, or of which none is.
fn runs(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (blocks, _) = content.as_chunks::<BLOCK_SIZE>();
    blocks.chunk_by(|a, b| is_zero(a) == is_zero(b)).map(<[[u8; BLOCK_SIZE]]>::as_flattened)
}

impl Drop for Target {
    fn drop(&mut self) {
        let finished = self.blocks.get_mut().unwrap_or_else(PoisonError::into_inner).finished;
        if !finished && is_named(&self.file, &self.partial).unwrap_or(false) {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests;
