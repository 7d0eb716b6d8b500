//! The agent's directory on disk, held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The locked directory. The lock goes with the process, however it ends.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    _lock: File,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirError {
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: std::io::Error },
    #[error("cannot open the lock file {}", path.display())]
    OpenLock { path: PathBuf, source: std::io::Error },
    #[error("another holdfast-agent is using {}; stop it first", path.display())]
    Locked { path: PathBuf },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: std::io::Error },
}

impl StateDir {
    /// Creates the directory (0700) with its parts if need be, and locks it.
    ///
    /// # Errors
    /// If another process has it, or the file system refuses.
    pub(crate) fn open(root: &Path) -> Result<Self, StateDirError> {
        for path in [root.to_owned(), root.join("spool"), root.join("maps"), root.join("snapshots")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| StateDirError::Create { path, source })?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StateDirError::OpenLock { path: path.clone(), source })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateDirError::Locked { path: root.to_owned() }),
            Err(errno) => Err(StateDirError::Lock { path, source: errno.into() }),
        }
    }

    /// `identity/`: key, certificate, CA and who this agent is; replaced as a whole.
    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The key of an enrolment whose answer has not come yet.
    pub(crate) fn enrolment_key(&self) -> PathBuf {
        self.root.join("enrolment.key")
    }

    /// Terminal reports that nobody acknowledged yet.
    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Block hashes of the newest point, one file per disk.
    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// What has to be undone if this process dies: one journal per snapshot that leaves something behind.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let first = StateDir::open(&root).unwrap();
        assert!(matches!(StateDir::open(&root), Err(StateDirError::Locked { .. })));
        drop(first);
        StateDir::open(&root).unwrap();
    }
}
