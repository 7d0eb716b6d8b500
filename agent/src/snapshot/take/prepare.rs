//! The first phase, which may take long: nothing is frozen yet.

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use holdfast_proto::v1::Consistency;

use crate::config::SnapshotConfig;
use crate::disk::DiskSource;
use crate::snapshot::journal::{CloneRecord, FrozenMount};
use crate::snapshot::mounts::{DeviceNumber, MountedOn, Mounts};
use crate::snapshot::reflink::{CloneDir, CloneName, Reflinks};
use crate::snapshot::undertaking::Undertaking;
use crate::snapshot::watchdog::MAX_FROZEN;
use crate::snapshot::{SnapshotDisk, SnapshotError, offline};

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
    pub(super) undertaking: Undertaking,
    pub(super) disks: Vec<Planned>,
    /// What has to be frozen, the innermost first.
    pub(super) frozen: Vec<MountedOn>,
    pub(super) consistency: Consistency,
    pub(super) order: Order,
}

#[derive(Debug)]
pub(super) enum Planned {
    Held(SnapshotDisk),
    Image(Image),
}

/// An image in use.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) source: DiskSource,
    pub(super) file: File,
    pub(super) metadata: Metadata,
    pub(super) directory: CloneDir,
    /// Empty so far.
    pub(super) clone: Option<OwnedFd>,
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
    pub(super) fn images(&self) -> impl Iterator<Item = &Image> {
        self.disks.iter().filter_map(|disk| match disk {
            Planned::Image(image) => Some(image),
            Planned::Held(_) => None,
        })
    }

    pub(super) fn file_systems_on_images(&self, mounts: &Mounts) -> Result<Vec<DeviceNumber>, SnapshotError> {
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
}
