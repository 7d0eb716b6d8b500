//! Why a disk cannot be snapshotted or read any longer, and what the operator can do.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error, user_error};
use holdfast_proto::v1::ErrorDetail;

use super::journal::JournalError;
use super::watchdog::{FreezeError, MAX_FROZEN};

/// Why a disk cannot be snapshotted or read any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("disk {disk}: there is nothing at {}", path.display())]
    NotFound { disk: String, path: PathBuf },
    #[error("disk {disk}: {} is in use", path.display())]
    InUse { disk: String, path: PathBuf },
    #[error("disk {disk}: the block device {} is in use{}", path.display(), mounted(.mount_point.as_deref()))]
    DeviceInUse { disk: String, path: PathBuf, mount_point: Option<PathBuf> },
    #[error("disk {disk}: {} is in use, and its file system cannot clone files", path.display())]
    NoReflink { disk: String, path: PathBuf },
    #[error("disk {disk}: {} is in use, but not by a file system that is mounted here and could be frozen", path.display())]
    NothingToFreeze { disk: String, path: PathBuf },
    #[error("disk {disk}: the agent may not use {}", path.display())]
    Denied { disk: String, path: PathBuf },
    #[error("disk {disk}: {} is neither a block device nor a file, or its file system has no leases", path.display())]
    Unsupported { disk: String, path: PathBuf },
    #[error("disk {disk}: cannot open {}: {source}", path.display())]
    Open { disk: String, path: PathBuf, source: io::Error },
    #[error("disk {disk}: cannot find out whether something writes to {}: {source}", path.display())]
    Uncounted { disk: String, path: PathBuf, source: io::Error },
    #[error("disk {disk}: something began to write to it during the backup")]
    Broken { disk: String },
    #[error(
        "disk {disk}: the image is made of {extents} extents; more than {limit} take too long to clone while frozen"
    )]
    Fragmented { disk: String, extents: u32, limit: u32 },
    #[error("disk {disk}: cannot {what}: {source}")]
    Clone { disk: String, what: &'static str, source: io::Error },
    #[error("cannot find out what lies on the images: {0}")]
    Mounts(io::Error),
    #[error("cannot write out {} before it is frozen: {source}", path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("{count} file systems would have to be frozen at once, more than {MAX_FROZEN}")]
    TooMany { count: usize },
    #[error("{} cannot be frozen: {needed} lies on it", mount_point.display())]
    Needed { mount_point: PathBuf, needed: String },
    #[error("what is mounted from the images changed while they were frozen")]
    Changed,
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    #[error("cannot keep account of the snapshot: {}", crate::error::chain(.0))]
    Journal(#[from] JournalError),
    #[error("the disks did not answer within {limit_s} s while the snapshot was prepared")]
    Stalled { limit_s: u64 },
    #[error("the disks did not answer while the snapshot was taken")]
    Hung,
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
            Self::DeviceInUse { .. } => user_error("disk_in_use", message).action(
                "unmount it, or stop what uses it, and try again: a block device is backed up only while nothing uses it, whatever \
                 consistency the policy allows; in use, only images on XFS or btrfs are. The other disks are backed up if the policy \
                 names them (`disks`), or with --disk",
            ),
            Self::NoReflink { .. } => user_error("disk_in_use", message).action(
                "keep the image on XFS (made with reflink=1) or btrfs, or stop what uses it, and try again",
            ),
            Self::NothingToFreeze { .. } => user_error("disk_in_use", message).action(
                "stop the virtual machine or program that uses it, or allow crash consistency in the policy (`consistency: {minimum: crash}`)",
            ),
            Self::Denied { .. } => agent_error("disk_denied", message)
                .action("run the agent as root, or as the owner of the file"),
            Self::Unsupported { .. } => user_error("disk_unsupported", message)
                .action("name a block device, or a file on a local file system"),
            Self::Uncounted { .. } => user_error("disk_unsupported", message).action(
                "write 1 to queue/iostats of the device below /sys/block, and run the agent where it sees /sys and /proc",
            ),
            Self::Open { .. } => agent_error("disk_unreadable", message).retryable(),
            Self::Broken { .. } => user_error("disk_in_use", message)
                .action("keep the disk unused until the backup is done, and try again"),
            Self::Fragmented { .. } => user_error("disk_fragmented", message).action(
                "defragment the image (xfs_fsr, btrfs filesystem defragment, or a plain copy), or raise \
                 snapshot.max_extents in agent.toml",
            ),
            Self::Clone { source, .. } if is_full(source) => user_error("snapshot_failed", message)
                .retryable()
                .action("free space on the file system of the image"),
            Self::Clone { .. } | Self::Mounts(_) | Self::Sync { .. } | Self::Journal(_) => {
                agent_error("snapshot_failed", message).retryable()
            }
            Self::TooMany { .. } => {
                user_error("freeze_refused", message).action("back up fewer disks of this machine at once")
            }
            Self::Needed { .. } => user_error("freeze_refused", message)
                .action("move it to a file system that does not lie on a disk of this backup"),
            Self::Changed => agent_error("freeze_failed", message).retryable(),
            Self::Freeze(error) => freeze_detail(error, message),
            Self::Stalled { .. } => agent_error("disk_stalled", message).retryable().action(
                "see whether the storage answers, or whether something froze the file system of the image",
            ),
            Self::Hung => agent_error("freeze_timed_out", message).retryable().action(TOO_SLOW),
        }
    }
}

fn mounted(at: Option<&Path>) -> String {
    at.map_or_else(String::new, |at| format!(": something of it is mounted at {}", at.display()))
}

const TOO_SLOW: &str =
    "nothing is frozen any longer than snapshot.freeze_limit; try again when the disks have less to do";

fn freeze_detail(error: &FreezeError, message: String) -> ErrorDetail {
    match error {
        FreezeError::Expired | FreezeError::Hanging { .. } => {
            agent_error("freeze_timed_out", message).retryable().action(TOO_SLOW)
        }
        FreezeError::Refused { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            user_error("freeze_failed", message)
                .action("unmount it during backups, or allow crash consistency in the policy")
        }
        FreezeError::Refused { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
            agent_error("freeze_failed", message).action("run the agent as root (CAP_SYS_ADMIN)")
        }
        FreezeError::Refused { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => {
            agent_error("freeze_failed", message).retryable().action(
                "something else has frozen it; thaw it with fsfreeze --unfreeze if that was forgotten",
            )
        }
        FreezeError::Refused { .. }
        | FreezeError::Lost { .. }
        | FreezeError::Gone(_)
        | FreezeError::Start(_) => agent_error("freeze_failed", message).retryable(),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
