use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use holdfast_vault_engine::BLOCK_SIZE;
use holdfast_vault_format::is_zero;

use crate::error::ToolError;

/// The file that a disk is restored to, still under its temporary name.
#[derive(Debug)]
pub(super) struct Target {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    size_bytes: u64,
}

/// Refuses a file that is there, unless it is one that may be replaced.
pub(super) fn check(path: &Path, overwrite: bool) -> Result<(), ToolError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ToolError::Write { path: path.to_owned(), source }),
        Ok(metadata) if !metadata.is_file() => Err(ToolError::NotAFile(path.to_owned())),
        Ok(_) if overwrite => Ok(()),
        Ok(_) => Err(ToolError::Exists(path.to_owned())),
    }
}

impl Target {
    /// Makes FILE.partial as one hole of this size. What an earlier, interrupted restore left there is replaced.
    pub(super) fn create(path: &Path, size_bytes: u64) -> Result<Self, ToolError> {
        let mut name = path.file_name().ok_or_else(|| ToolError::NotAFile(path.to_owned()))?.to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        if let Ok(metadata) = fs::symlink_metadata(&partial)
            && !metadata.is_file()
        {
            return Err(ToolError::NotAFile(partial));
        }
        let failed = |source| ToolError::Write { path: partial.clone(), source };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&partial)
            .map_err(failed)?;
        // Locked before it is emptied: it may be another restore's.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ToolError::Busy(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let target = Self { file, partial: partial.clone(), path: path.to_owned(), size_bytes };
        if let Err(source) = target.file.set_len(0).and_then(|()| target.file.set_len(size_bytes)) {
            // A disk larger than the file system's files can be.
            target.discard();
            return Err(failed(source));
        }
        Ok(target)
    }

    /// Writes whole blocks; those of zeros stay holes, and what lies behind the end of the disk is cut.
    pub(super) fn write(&self, first_block: u64, content: &[u8]) -> Result<(), ToolError> {
        let mut at = first_block.saturating_mul(BLOCK_SIZE as u64);
        let mut rest = content;
        while !rest.is_empty() {
            let zero = is_zero(&rest[..BLOCK_SIZE.min(rest.len())]);
            let run =
                rest.chunks(BLOCK_SIZE).take_while(|block| is_zero(block) == zero).map(<[u8]>::len).sum();
            let (taken, left) = rest.split_at(run);
            if !zero {
                let fits = usize::try_from(self.size_bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(run);
                self.file
                    .write_all_at(&taken[..fits], at)
                    .map_err(|source| ToolError::Write { path: self.partial.clone(), source })?;
            }
            at = at.saturating_add(run as u64);
            rest = left;
        }
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    pub(super) fn publish(&self, overwrite: bool) -> Result<(), ToolError> {
        let failed = |source| ToolError::Write { path: self.path.clone(), source };
        self.file.sync_all().map_err(failed)?;
        // It may have appeared since the first check.
        check(&self.path, overwrite)?;
        if overwrite {
            fs::rename(&self.partial, &self.path).map_err(failed)?;
        } else {
            publish_new(&self.partial, &self.path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => ToolError::Exists(self.path.clone()),
                _ => failed(error),
            })?;
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new("."))).and_then(|parent| parent.sync_all()).map_err(failed)
    }

    /// Nobody should take what is there for a disk.
    pub(super) fn discard(&self) {
        if let Err(error) = fs::remove_file(&self.partial) {
            eprintln!("warning: {} is left behind: {error}", self.partial.display());
        }
    }
}

/// Gives the file a name that must not exist; a link fails if it does, where a rename would replace it.
fn publish_new(partial: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(partial, path) {
        Ok(()) => fs::remove_file(partial),
        // File systems without links.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
        {
            fs::rename(partial, path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn a_disk_larger_than_files_can_be_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let error = Target::create(&folder.path().join("disk"), u64::MAX).unwrap_err();
        assert!(matches!(error, ToolError::Write { .. }), "{error:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
