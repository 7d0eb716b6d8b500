//! Takes one instant of a set of disks. What nobody uses is held; image files in use are cloned while everything that is
//! mounted from them is frozen. Two phases, because only the second one may not take long.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use holdfast_proto::ids::{SnapshotId, StepId};
use holdfast_proto::v1::{Consistency, ErrorDetail};

use super::journal::{CloneRecord, FrozenMount, Phase};
use super::mounts::{DeviceNumber, MountedOn, Mounts};
use super::reflink::{CloneDir, CloneName, Reflinks, clone_into};
use super::undertaking::Undertaking;
use super::watchdog::{
    Failure, FreezeError, MAX_FROZEN, OWN_THAW_LIMIT, Remains, Thawed, Watchdog, thaw_within,
};
use super::{Hold, Snapshot, SnapshotDisk, SnapshotError, offline};
use crate::config::SnapshotConfig;
use crate::crash_point::crash_point;
use crate::disk::DiskSource;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) sources: Vec<DiskSource>,
    /// The least that is acceptable.
    pub(crate) minimum: Consistency,
    /// What must go on working while file systems are frozen: for people, and open.
    pub(crate) needed: Vec<(String, File)>,
    pub(crate) limits: SnapshotConfig,
}

/// Everything is ready; nothing is frozen yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    undertaking: Undertaking,
    disks: Vec<Planned>,
    /// What has to be frozen, the innermost first.
    frozen: Vec<MountedOn>,
    consistency: Consistency,
    order: Order,
}

/// A snapshot that is undone unless it is kept.
#[derive(Debug)]
pub(crate) struct Fresh {
    undertaking: Undertaking,
    pub(crate) disks: Vec<SnapshotDisk>,
    /// `FileSystem` or `Crash`.
    pub(crate) consistency: Consistency,
    pub(crate) warnings: Vec<ErrorDetail>,
}

#[derive(Debug)]
enum Planned {
    Held(SnapshotDisk),
    Image(Image),
}

/// An image in use.
#[derive(Debug)]
struct Image {
    source: DiskSource,
    file: File,
    metadata: Metadata,
    directory: CloneDir,
    /// Empty so far.
    clone: Option<OwnedFd>,
}

/// Finds out what to do, writes out what can be written before, and makes room for the clones. May take as long as the
/// disks need for that.
///
/// # Errors
/// If a disk cannot be snapshotted well enough; nothing is left then.
pub(crate) fn prepare(undertaking: Undertaking, order: Order) -> Result<Prepared, SnapshotError> {
    let disks = order.sources.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    let mut prepared =
        Prepared { undertaking, disks, frozen: Vec::new(), consistency: Consistency::FileSystem, order };
    if prepared.images().next().is_some() {
        let mounts = Mounts::read().map_err(SnapshotError::Mounts)?;
        prepared.find_file_systems(&mounts)?;
        prepared.check_needed(&mounts)?;
        prepared.write_out()?;
        prepared.count_extents()?;
        prepared.reserve()?;
    }
    Ok(prepared)
}

fn plan(source: &DiskSource) -> Result<Planned, SnapshotError> {
    match offline::hold(source) {
        Ok(held) => return Ok(Planned::Held(held)),
        Err(SnapshotError::InUse { .. }) => {}
        Err(error) => return Err(error),
    }
    let failed = |what| move |error| SnapshotError::Clone { disk: source.name.clone(), what, source: error };
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&source.path);
    let file = open.map_err(failed("open the image"))?;
    let metadata = file.metadata().map_err(failed("open the image"))?;
    if !metadata.is_file() {
        let mount_point =
            Mounts::read().ok().and_then(|mounts| mounts.mount_point_of(metadata.rdev().into()));
        let (disk, path) = (source.name.clone(), source.path.clone());
        return Err(SnapshotError::DeviceInUse { disk, path, mount_point });
    }
    let directory = CloneDir::create(&source.path).map_err(failed("make a directory beside the image"))?;
    match directory.probe().map_err(failed("clone files beside the image"))? {
        Reflinks::Supported => {
            Ok(Planned::Image(Image { source: source.clone(), file, metadata, directory, clone: None }))
        }
        Reflinks::Unsupported => {
            directory.remove_if_empty();
            Err(SnapshotError::NoReflink { disk: source.name.clone(), path: source.path.clone() })
        }
    }
}

impl Prepared {
    fn images(&self) -> impl Iterator<Item = &Image> {
        self.disks.iter().filter_map(|disk| match disk {
            Planned::Image(image) => Some(image),
            Planned::Held(_) => None,
        })
    }

    fn file_systems_on_images(&self, mounts: &Mounts) -> Result<Vec<DeviceNumber>, SnapshotError> {
        let images: Vec<&Metadata> = self.images().map(|image| &image.metadata).collect();
        mounts.lying_on(&images).map_err(SnapshotError::Mounts)
    }

    fn find_file_systems(&mut self, mounts: &Mounts) -> Result<(), SnapshotError> {
        let mut nothing = None;
        for image in self.images() {
            let found = mounts.lying_on(&[&image.metadata]).map_err(SnapshotError::Mounts)?;
            if found.is_empty() {
                nothing = Some(image.source.clone());
            }
        }
        if let Some(DiskSource { name: disk, path }) = nothing {
            if self.order.minimum != Consistency::Crash {
                return Err(SnapshotError::NothingToFreeze { disk, path });
            }
            self.consistency = Consistency::Crash;
        }
        let devices = self.file_systems_on_images(mounts)?;
        if devices.len() > MAX_FROZEN {
            return Err(SnapshotError::TooMany { count: devices.len() });
        }
        let opened = devices.into_iter().map(|device| mounts.open(device)).collect::<Result<_, _>>();
        self.frozen = opened.map_err(SnapshotError::Mounts)?;
        Ok(())
    }

    /// Whoever writes to what he has frozen waits for himself.
    fn check_needed(&self, mounts: &Mounts) -> Result<(), SnapshotError> {
        let needed = self.order.needed.iter().map(|(name, file)| (name.clone(), file.as_fd()));
        let clones = self
            .images()
            .map(|image| (format!("the image of disk {}", image.source.name), image.directory.descriptor()));
        for (needed, descriptor) in needed.chain(clones) {
            let device = mounts.file_system_of(descriptor).map_err(SnapshotError::Mounts)?;
            if let Some(frozen) = self.frozen.iter().find(|frozen| frozen.device == device) {
                return Err(SnapshotError::Needed { mount_point: frozen.mount_point.clone(), needed });
            }
        }
        Ok(())
    }

    /// What is written out now need not be while everything stands still.
    fn write_out(&self) -> Result<(), SnapshotError> {
        for mounted in &self.frozen {
            rustix::fs::syncfs(&mounted.file).map_err(|errno| SnapshotError::Sync {
                path: mounted.mount_point.clone(),
                source: errno.into(),
            })?;
        }
        for image in self.images() {
            image
                .file
                .sync_all()
                .map_err(|source| SnapshotError::Sync { path: image.source.path.clone(), source })?;
        }
        Ok(())
    }

    fn count_extents(&self) -> Result<(), SnapshotError> {
        let limit = self.order.limits.max_extents;
        for image in self.images() {
            let disk = image.source.name.clone();
            let extents = crate::kernel::extent_count(&image.file).map_err(|source| {
                SnapshotError::Clone { disk: disk.clone(), what: "count the extents of the image", source }
            })?;
            if extents > limit {
                return Err(SnapshotError::Fragmented { disk, extents, limit });
            }
        }
        Ok(())
    }

    /// Writes down what is to be done, and makes the empty files: all that needs space or a name.
    fn reserve(&mut self) -> Result<(), SnapshotError> {
        let clones = self
            .images()
            .map(|image| CloneRecord {
                disk: image.source.name.clone(),
                directory: image.directory.directory().to_owned(),
                size_bytes: 0,
            })
            .collect();
        let frozen = self
            .frozen
            .iter()
            .map(|mounted| FrozenMount { device: mounted.device, mount_point: mounted.mount_point.clone() })
            .collect();
        self.undertaking.note(|journal| {
            journal.clones = clones;
            journal.frozen = frozen;
        })?;
        let snapshot = self.undertaking.id();
        for disk in &mut self.disks {
            let Planned::Image(image) = disk else { continue };
            let name = CloneName { snapshot, disk: image.source.name.clone() };
            let reserved = image.directory.reserve(&name, &image.file);
            image.clone = Some(reserved.map_err(|source| SnapshotError::Clone {
                disk: name.disk,
                what: "make a file beside the image",
                source,
            })?);
        }
        Ok(())
    }

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
                tracing::error!(snapshot = %self.undertaking.id(), "a file system may be frozen still; restart the agent");
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
        self.undertaking.leave();
        Ok(Snapshot { id, step, disks: self.disks, journal })
    }
}

#[cfg(test)]
mod tests;
