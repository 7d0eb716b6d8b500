//! Takes one instant of a set of disks. What nobody uses is held; image files in use are cloned while everything that is
//! mounted from them is frozen. Two phases, because only the second one may not take long.

mod prepare;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use holdfast_proto::ids::{SnapshotId, StepId};
use holdfast_proto::v1::{Consistency, ErrorDetail};

use super::journal::Phase;
use super::mounts::Mounts;
use super::reflink::{CloneName, clone_into};
use super::undertaking::Undertaking;
use super::watchdog::{Failure, FreezeError, OWN_THAW_LIMIT, Remains, Thawed, Watchdog, thaw_within};
use super::{Hold, Snapshot, SnapshotDisk, SnapshotError};
use crate::crash_point::crash_point;
use prepare::Planned;

pub(crate) use prepare::{Order, Prepared, prepare};

/// A snapshot that is undone unless it is kept.
#[derive(Debug)]
pub(crate) struct Fresh {
    undertaking: Undertaking,
    pub(crate) disks: Vec<SnapshotDisk>,
    /// `FileSystem` or `Crash`.
    pub(crate) consistency: Consistency,
    pub(crate) warnings: Vec<ErrorDetail>,
}

impl Prepared {
    /// Freezes, clones and thaws. Bounded by the freeze limit, as far as the kernel answers at all.
    ///
    /// # Errors
    /// If there was no one instant; then nothing is left, or will be as soon as everything is thawed.
    pub(crate) fn take(mut self) -> Result<Fresh, SnapshotError> {
        let mut warnings = Vec::new();
        if self.frozen.is_empty() {
            self.clone_all()?;
        } else if let Err(stopped) = self.clone_frozen() {
            let refused = matches!(stopped.error, SnapshotError::Freeze(FreezeError::Refused { .. }));
            let thawed = matches!(stopped.remains, Remains::Nothing);
            if !(refused && thawed && self.order.minimum == Consistency::Crash) {
                return Err(self.undo(stopped));
            }
            self.consistency = Consistency::Crash;
            warnings.push(stopped.error.detail());
            self.clone_all()?;
        }
        let Self { undertaking, disks, consistency, .. } = self;
        let id = undertaking.id();
        let disks = disks.into_iter().map(|disk| disk.into_readable(id)).collect::<Result<_, _>>()?;
        Ok(Fresh { undertaking, disks, consistency, warnings })
    }

    fn clone_frozen(&self) -> Result<(), Stopped> {
        let watchdog = Watchdog::start().map_err(SnapshotError::from)?;
        let frozen = watchdog.freeze(&self.frozen, self.order.limits.freeze_limit)?;
        crash_point("agent::frozen");
        let cloned = self.check_unchanged().and_then(|()| self.clone_all());
        let held = frozen.thaw()?;
        tracing::info!(
            snapshot = %self.undertaking.id(),
            file_systems = self.frozen.len(),
            held_ms = held.as_millis(),
            "thawed"
        );
        Ok(cloned?)
    }

    /// What was mounted since the file systems were looked for is not frozen.
    fn check_unchanged(&self) -> Result<(), SnapshotError> {
        let mounts = Mounts::read().map_err(SnapshotError::Mounts)?;
        let frozen = self.frozen.iter().map(|mounted| mounted.device);
        if self.file_systems_on_images(&mounts)?.into_iter().eq(frozen) {
            Ok(())
        } else {
            Err(SnapshotError::Changed)
        }
    }

    fn clone_all(&self) -> Result<(), SnapshotError> {
        for image in self.images() {
            let cloned = image.clone.as_ref().map(|clone| clone_into(clone.as_fd(), &image.file));
            if let Some(Err(source)) = cloned {
                return Err(SnapshotError::Clone {
                    disk: image.source.name.clone(),
                    what: "clone the image",
                    source,
                });
            }
            crash_point("agent::disk_cloned");
        }
        Ok(())
    }

    fn frozen_files(&self) -> Vec<File> {
        self.frozen.iter().filter_map(|mounted| mounted.file.try_clone().ok()).collect()
    }

    /// Not before everything is thawed: removing files may have to wait for that.
    fn undo(self, stopped: Stopped) -> SnapshotError {
        match stopped.remains {
            Remains::Nothing => drop(self),
            Remains::UntilEnd(watchdog) => {
                tracing::error!(snapshot = %self.undertaking.id(), "a file system does not answer; the watchdog stays");
                std::thread::spawn(move || {
                    watchdog.wait();
                    // It may have been killed while a freeze was on its way, which then came to its end without it.
                    match thaw_within(self.frozen_files(), OWN_THAW_LIMIT) {
                        Thawed::All => drop(self),
                        Thawed::NotAll => self.undertaking.leave(),
                    }
                });
            }
            Remains::Unknown => {
                tracing::error!(snapshot = %self.undertaking.id(), "a file system may be frozen still; it is thawed again");
                self.undertaking.leave();
            }
        }
        stopped.error
    }
}

/// Why there is no snapshot, and what may be frozen still.
struct Stopped {
    error: SnapshotError,
    remains: Remains,
}

impl From<SnapshotError> for Stopped {
    fn from(error: SnapshotError) -> Self {
        Self { error, remains: Remains::Nothing }
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self { error: failure.error.into(), remains: failure.remains }
    }
}

impl Planned {
    fn into_readable(self, snapshot: SnapshotId) -> Result<SnapshotDisk, SnapshotError> {
        let image = match self {
            Self::Held(disk) => return Ok(disk),
            Self::Image(image) => image,
        };
        let name = CloneName { snapshot, disk: image.source.name };
        // Whole after a power cut as well, or it would be a clone of nothing.
        let synced = image.clone.as_ref().map_or(Ok(()), rustix::fs::fsync);
        let opened =
            synced.map_err(io::Error::from).and_then(|()| SnapshotDisk::of_clone(&image.directory, &name));
        opened.map_err(|source| SnapshotError::Clone { disk: name.disk, what: "open the clone", source })
    }
}

impl Fresh {
    /// Makes it a snapshot.
    ///
    /// # Errors
    /// If that cannot be made durable; then nothing is left.
    pub(crate) fn keep(mut self) -> Result<Snapshot, SnapshotError> {
        let journal = self.undertaking.journal();
        let (id, step) = (journal.id(), StepId(journal.step));
        let journal = if journal.clones.is_empty() {
            None
        } else {
            let is_clone = |disk: &SnapshotDisk| disk.hold == Hold::Clone;
            let phase = if self.disks.iter().all(is_clone) { Phase::Taken } else { Phase::Bound };
            let sizes: Vec<u64> =
                self.disks.iter().filter(|disk| is_clone(disk)).map(|disk| disk.size_bytes).collect();
            self.undertaking.note(|journal| {
                journal.phase = phase;
                journal.frozen.clear();
                for (clone, size_bytes) in journal.clones.iter_mut().zip(sizes) {
                    clone.size_bytes = size_bytes;
                }
            })?;
            Some(self.undertaking.journal().clone())
        };
        self.undertaking.keep();
        Ok(Snapshot { id, step, disks: self.disks, journal })
    }
}

#[cfg(test)]
mod tests;
