//! What lies on an image file: loop devices, their partitions, what is stacked on those, and the file systems mounted
//! from any of them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dev, StatxFlags, major, makedev, minor, statx};
use serde::{Deserialize, Serialize};

/// Devices on devices on files: more than this is a loop of our own making.
const MAX_DEPTH: usize = 16;

/// The number of a block device, or of a file system without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DeviceNumber {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl From<Dev> for DeviceNumber {
    fn from(dev: Dev) -> Self {
        Self { major: major(dev), minor: minor(dev) }
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    id: u64,
    /// The same for all mounts of one file system.
    device: DeviceNumber,
    mount_point: PathBuf,
    source: PathBuf,
}

/// The mounts that this process sees, as they were when they were read.
#[derive(Debug)]
pub(crate) struct Mounts {
    mounts: Vec<Mount>,
}

/// A file system and a way to it.
#[derive(Debug)]
pub(crate) struct MountedOn {
    pub(crate) device: DeviceNumber,
    pub(crate) mount_point: PathBuf,
    /// Something of the file system, open for reading.
    pub(crate) file: File,
}

impl Mounts {
    /// Reads them.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub(crate) fn read() -> io::Result<Self> {
        let text = std::fs::read("/proc/self/mountinfo")?;
        Ok(Self { mounts: text.split(|byte| *byte == b'\n').filter_map(parse).collect() })
    }

    /// The file systems that lie on these files, each once, the innermost first: what must be frozen first.
    ///
    /// # Errors
    /// If `/sys` cannot be read.
    pub(crate) fn lying_on(&self, images: &[&Metadata]) -> io::Result<Vec<DeviceNumber>> {
        let mut layers: Vec<DeviceNumber> = Vec::new();
        let images: Vec<(u64, u64)> = images.iter().map(|image| (image.dev(), image.ino())).collect();
        let mut devices = devices_backed_by(|backing| images.contains(&(backing.dev(), backing.ino())))?;
        for _ in 0..MAX_DEPTH {
            let found: BTreeSet<DeviceNumber> = self
                .mounts
                .iter()
                .filter(|mount| mount.is_from(&devices))
                .map(|mount| mount.device)
                .filter(|device| !layers.contains(device))
                .collect();
            if found.is_empty() {
                layers.reverse();
                return Ok(layers);
            }
            // Images that lie in these file systems may be mounted in turn.
            let inside = self.stat_devices(&found);
            layers.extend(&found);
            devices = devices_backed_by(|backing| inside.contains(&backing.dev()))?;
        }
        Err(io::Error::other("file systems are stacked too deep"))
    }

    /// The file system that an open file is on, as `mountinfo` names it.
    pub(crate) fn file_system_of(&self, file: impl AsFd) -> io::Result<DeviceNumber> {
        let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        let by_mount = self.mounts.iter().find(|mount| mount_id(&stat) == Some(mount.id));
        // Kernels before 5.8 do not tell the mount. The number is the same, except on btrfs.
        Ok(by_mount.map_or(DeviceNumber { major: stat.stx_dev_major, minor: stat.stx_dev_minor }, |mount| {
            mount.device
        }))
    }

    /// Opens something of a mounted file system.
    ///
    /// # Errors
    /// If none of its mount points leads to it: they may all be hidden by other mounts.
    pub(crate) fn open(&self, device: DeviceNumber) -> io::Result<MountedOn> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for mount in self.mounts.iter().filter(|mount| mount.device == device) {
            match mount.open() {
                Ok(file) => {
                    return Ok(MountedOn { device, mount_point: mount.mount_point.clone(), file });
                }
                Err(error) => last = error,
            }
        }
        Err(io::Error::new(
            last.kind(),
            format!("no way to file system {}:{}: {last}", device.major, device.minor),
        ))
    }

    /// Where a block device is mounted, or something that is made of it or of a part of it.
    pub(crate) fn mount_point_of(&self, device: DeviceNumber) -> Option<PathBuf> {
        let mut devices = BTreeSet::new();
        collect(Path::new(&format!("/sys/dev/block/{}:{}", device.major, device.minor)), &mut devices);
        self.mounts.iter().find(|mount| mount.is_from(&devices)).map(|mount| mount.mount_point.clone())
    }

    pub(crate) fn contains(&self, device: DeviceNumber) -> bool {
        self.mounts.iter().any(|mount| mount.device == device)
    }

    /// What `stat` says as device of the files in these file systems; btrfs has one number per subvolume.
    fn stat_devices(&self, file_systems: &BTreeSet<DeviceNumber>) -> BTreeSet<u64> {
        let mounts = self.mounts.iter().filter(|mount| file_systems.contains(&mount.device));
        mounts
            .flat_map(|mount| {
                let named = makedev(mount.device.major, mount.device.minor);
                [Some(named), mount.mount_point.metadata().ok().map(|metadata| metadata.dev())]
            })
            .flatten()
            .collect()
    }
}

impl Mount {
    /// By number, or by the name of the device: btrfs has a number of its own.
    fn is_from(&self, devices: &BTreeSet<DeviceNumber>) -> bool {
        devices.contains(&self.device)
            || (self.device.major == 0
                && device_at(&self.source).is_some_and(|source| devices.contains(&source)))
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&self.mount_point)?;
        let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        let reached = mount_id(&stat).map_or(
            DeviceNumber { major: stat.stx_dev_major, minor: stat.stx_dev_minor } == self.device,
            |id| id == self.id,
        );
        if reached { Ok(file) } else { Err(io::Error::other("its mount point is hidden by another mount")) }
    }
}

fn mount_id(stat: &rustix::fs::Statx) -> Option<u64> {
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

/// `36 35 98:0 /root /mount/point options [optional]... - type source superoptions`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let id = text(fields.next()?)?.parse().ok()?;
    let device = text(fields.nth(1)?)?.parse().ok()?;
    let mount_point = unescape(fields.nth(1)?);
    let source = unescape(fields.skip_while(|field| *field != b"-").nth(2)?);
    Some(Mount { id, device, mount_point, source })
}

impl std::str::FromStr for DeviceNumber {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.trim().split_once(':').ok_or(())?;
        Ok(Self { major: major.parse().map_err(|_| ())?, minor: minor.parse().map_err(|_| ())? })
    }
}

/// `mountinfo` writes blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = match behind {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if byte == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &behind[3..] } else { behind };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Loop devices whose file is chosen, their partitions, and everything that is stacked on any of them.
fn devices_backed_by(chosen: impl Fn(&Metadata) -> bool) -> io::Result<BTreeSet<DeviceNumber>> {
    let mut devices = BTreeSet::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let device = entry?.path();
        // Others than loop devices have no such attribute; a loop device may go while we look.
        let Ok(backing) = std::fs::read(device.join("loop/backing_file")) else { continue };
        let backing = Path::new(std::ffi::OsStr::from_bytes(backing.trim_ascii_end()));
        if backing.metadata().is_ok_and(|metadata| chosen(&metadata)) {
            collect(&device, &mut devices);
        }
    }
    Ok(devices)
}

fn collect(device: &Path, devices: &mut BTreeSet<DeviceNumber>) {
    let number = std::fs::read_to_string(device.join("dev")).ok().and_then(|text| text.parse().ok());
    if !number.is_some_and(|number| devices.insert(number)) {
        return;
    }
    let children = |path: &Path| {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    for partition in children(device).iter().filter(|path| path.join("partition").is_file()) {
        collect(partition, devices);
    }
    for holder in children(&device.join("holders")) {
        collect(&holder, devices);
    }
}

fn device_at(path: &Path) -> Option<DeviceNumber> {
    let metadata = path.is_absolute().then(|| path.metadata().ok()).flatten()?;
    metadata.file_type().is_block_device().then(|| metadata.rdev().into())
}

#[cfg(test)]
mod tests;
