//! Snapshots: the disks of one attempt at one instant, readable until they are released. They live as long as this
//! process; nothing of them is left behind by a crash.

pub(crate) mod lease;
pub(crate) mod offline;
mod registry;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error, user_error};
use holdfast_proto::ids::{SnapshotId, StepId};
use holdfast_proto::v1::{Disk, ErrorDetail};

use crate::disk::DiskSource;

pub(crate) use registry::Snapshots;

/// A set of disks that nobody changes while it exists.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: SnapshotId,
    /// The step that it was taken for.
    pub(crate) step: StepId,
    pub(crate) disks: Vec<SnapshotDisk>,
}

/// One disk of a snapshot, open for reading.
#[derive(Debug)]
pub(crate) struct SnapshotDisk {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) file: File,
    pub(crate) hold: Hold,
    /// Once broken, always broken.
    broken: AtomicBool,
}

/// What keeps others from writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The kernel refuses to mount the device or to open it exclusively.
    Exclusive,
    /// The kernel makes a writer wait, and tells us.
    Lease,
}

/// Why a disk cannot be snapshotted or read any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("disk {disk}: there is nothing at {}", path.display())]
    NotFound { disk: String, path: PathBuf },
    #[error("disk {disk}: {} is in use", path.display())]
    InUse { disk: String, path: PathBuf },
    #[error("disk {disk}: the agent may not use {}", path.display())]
    Denied { disk: String, path: PathBuf },
    #[error("disk {disk}: {} is neither a block device nor a file, or its file system has no leases", path.display())]
    Unsupported { disk: String, path: PathBuf },
    #[error("disk {disk}: cannot open {}: {source}", path.display())]
    Open { disk: String, path: PathBuf, source: io::Error },
    #[error("disk {disk}: something began to write to it during the backup")]
    Broken { disk: String },
}

impl SnapshotError {
    /// The error as the operator sees it.
    pub(crate) fn detail(&self) -> ErrorDetail {
        let message = self.to_string();
        match self {
            Self::NotFound { .. } => user_error("disk_not_found", message)
                .action("correct the path in agent.toml, or attach the disk"),
            Self::InUse { .. } => user_error("disk_in_use", message)
                .action("unmount it, or stop the virtual machine or program that uses it, and try again"),
            Self::Denied { .. } => agent_error("disk_denied", message)
                .action("run the agent as root, or as the owner of the file"),
            Self::Unsupported { .. } => user_error("disk_unsupported", message)
                .action("name a block device, or a file on a local file system"),
            Self::Open { .. } => agent_error("disk_unreadable", message).retryable(),
            Self::Broken { .. } => user_error("disk_in_use", message)
                .action("keep the disk unused until the backup is done, and try again"),
        }
    }
}

impl Snapshot {
    /// Opens all disks, or none of them.
    ///
    /// # Errors
    /// Of the first disk that cannot be held.
    pub(crate) fn take(step: StepId, sources: &[DiskSource]) -> Result<Self, SnapshotError> {
        let disks = sources.iter().map(offline::hold).collect::<Result<_, _>>()?;
        Ok(Self { id: SnapshotId::generate(), step, disks })
    }

    /// Confirms that nobody wrote to any disk up to now.
    ///
    /// # Errors
    /// [`SnapshotError::Broken`] for the first disk of which that is not certain.
    pub(crate) fn check(&self) -> Result<(), SnapshotError> {
        self.disks.iter().try_for_each(SnapshotDisk::check)
    }
}

impl SnapshotDisk {
    /// Confirms that nobody wrote to it up to now: what was read before this call returns `Ok` is the snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Broken`] if that is not certain; then it stays so.
    pub(crate) fn check(&self) -> Result<(), SnapshotError> {
        if !self.broken.load(Ordering::Acquire) && self.is_held() {
            return Ok(());
        }
        self.broken.store(true, Ordering::Release);
        if self.hold == Hold::Lease {
            // The writer waits for this. Marked broken first: no reader can take later bytes for the snapshot's.
            lease::give_up(&self.file);
        }
        Err(SnapshotError::Broken { disk: self.name.clone() })
    }

    pub(crate) fn to_wire(&self) -> Disk {
        Disk { name: self.name.clone(), size_bytes: self.size_bytes }
    }

    fn is_held(&self) -> bool {
        let held = match self.hold {
            Hold::Exclusive => true,
            Hold::Lease => lease::is_held(&self.file),
        };
        held && offline::size(&self.file).is_ok_and(|size| size == self.size_bytes)
    }
}
