//! Snapshots: the disks of one attempt at one instant, readable until they are released. Those that are made of clones
//! outlive this process, the others live as long as it does; what a crash leaves behind is removed at the next start.

mod device;
mod error;
pub(crate) mod journal;
pub(crate) mod lease;
mod mounts;
pub(crate) mod offline;
pub(crate) mod recover;
mod reflink;
mod registry;
pub(crate) mod take;
pub(crate) mod undertaking;
pub(crate) mod watchdog;

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_proto::ids::{SnapshotId, StepId};
use holdfast_proto::v1::Disk;

use device::WriteCount;
pub(crate) use error::SnapshotError;
use journal::Journal;
use reflink::{CloneDir, CloneName};
pub(crate) use registry::Snapshots;

/// A set of disks that nobody changes while it exists.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: SnapshotId,
    /// The step that it was taken for.
    pub(crate) step: StepId,
    pub(crate) disks: Vec<SnapshotDisk>,
    /// What has to be removed when it is released.
    journal: Option<Journal>,
}

/// One disk of a snapshot, open for reading.
#[derive(Debug)]
pub(crate) struct SnapshotDisk {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) file: File,
    /// Where others can read it, as long as it is held.
    pub(crate) path: PathBuf,
    pub(crate) hold: Hold,
    /// What a read of it may hang on: the name alone may be another device's by now.
    pub(crate) place: String,
    /// Once broken, always broken.
    broken: AtomicBool,
}

/// What keeps others from writing, or tells us that they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The kernel refuses to mount the device or to open it exclusively, and counts what is written to it all the same.
    Exclusive(WriteCount),
    /// The kernel makes a writer wait, and tells us.
    Lease,
    /// Nobody else knows of this file: it is a clone of the disk.
    Clone,
}

#[cfg(test)]
impl Snapshot {
    /// Disks that nobody uses, all or none of them.
    pub(crate) fn take(step: StepId, sources: &[crate::disk::DiskSource]) -> Result<Self, SnapshotError> {
        let disks = sources.iter().map(offline::hold).collect::<Result<_, _>>()?;
        Ok(Self { id: SnapshotId::generate(), step, disks, journal: None })
    }
}

fn place(disk: &str, metadata: &Metadata) -> String {
    format!("{disk} {} {}", metadata.dev(), metadata.rdev())
}

impl SnapshotDisk {
    /// Confirms that nobody wrote to it up to now: what was read before this call returns `Ok` is the snapshot. May wait for
    /// the disk, unless it is held by a lease.
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

    fn of_clone(directory: &CloneDir, name: &CloneName) -> io::Result<Self> {
        let file = directory.open_clone(name)?;
        let metadata = file.metadata()?;
        Ok(Self {
            name: name.disk.clone(),
            size_bytes: metadata.len(),
            place: place(&name.disk, &metadata),
            file,
            path: directory.path(name),
            hold: Hold::Clone,
            broken: AtomicBool::new(false),
        })
    }

    pub(crate) fn to_wire(&self) -> Disk {
        Disk { name: self.name.clone(), size_bytes: self.size_bytes }
    }

    fn is_held(&self) -> bool {
        let held = match self.hold {
            Hold::Exclusive(count) => count.is_unchanged(&self.file),
            Hold::Clone => true,
            Hold::Lease => lease::is_held(&self.file),
        };
        held && offline::size(&self.file).is_ok_and(|size| size == self.size_bytes)
    }
}
