//! Block devices that are held: an exclusive open keeps others from mounting one, not from writing to it. Who could is looked
//! for, and what was written is counted, by the kernel.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::mounts::DeviceNumber;
use crate::kernel;

/// What is read to see whether the kernel counts: as little as any device reads.
const TRIAL_BYTES: usize = 4096;

/// What had been written to a device when it began to be held.
///
/// Its own counters are what counts: those of a whole disk have what is written to its partitions, those of a partition or of a
/// mapped device (LVM, dm-crypt) only what is written to that, and not what is written to its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteCount {
    device: DeviceNumber,
    writes: Writes,
}

/// In sectors. The number of writes says nothing: a device that is told to flush its cache counts that as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Writes {
    written: u64,
    discarded: u64,
    /// Requests on their way, which may or may not be seen by who reads now.
    in_flight: u64,
}

impl WriteCount {
    /// Counts from now on. What this device has in the page cache is dropped: it may be older than what is on the device
    /// since somebody wrote to that in another way, such as to a partition.
    ///
    /// # Errors
    /// If the kernel does not count: then nobody could tell whether something writes.
    pub(super) fn begin(file: &File) -> io::Result<Self> {
        let device = file.metadata()?.rdev().into();
        let (writes, read_before) = look(file, device)?;
        fadvise(file, 0, None, Advice::DontNeed)?;
        let read = file.read_at(&mut [0; TRIAL_BYTES], 0)?;
        let (_, read_after) = look(file, device)?;
        if read > 0 && read_after == read_before {
            return Err(io::Error::other("the kernel does not count what is read from and written to it"));
        }
        Ok(Self { device, writes })
    }

    /// Whether nothing was written since.
    pub(super) fn is_unchanged(self, file: &File) -> bool {
        look(file, self.device).is_ok_and(|(writes, _)| writes == self.writes)
    }
}

/// The device's counters, and how many sectors were read.
fn look(file: &File, device: DeviceNumber) -> io::Result<(Writes, u64)> {
    // What was written to the page cache counts, too.
    kernel::write_out(file)?;
    let directory = sys(device);
    let numbers = |name: &str| -> io::Result<Vec<u64>> {
        let text = std::fs::read_to_string(directory.join(name))?;
        Ok(text.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect())
    };
    // Documentation/block/stat.rst. Kernels before 4.19 do not count what is discarded.
    let (stat, in_flight) = (numbers("stat")?, numbers("inflight")?);
    match (stat.as_slice(), in_flight.as_slice()) {
        ([_, _, read, _, _, _, written, ..], [_, in_flight, ..]) => {
            let discarded = stat.get(13).copied().unwrap_or_default();
            Ok((Writes { written: *written, discarded, in_flight: *in_flight }, *read))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether somebody has the device open for writing, or the disk that it is a part of, or a part of it. As far as this process
/// may see that: what others write is counted.
///
/// # Errors
/// If `/sys` or `/proc` cannot be read.
pub(super) fn is_open_for_writing(file: &File) -> io::Result<bool> {
    let related = related(file.metadata()?.rdev().into())?;
    for process in std::fs::read_dir("/proc")?.flatten() {
        let process = process.path();
        // Most of what is in /proc has none, some is another user's, and processes end.
        let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { continue };
        if descriptors.flatten().any(|descriptor| writes_to(&process, &descriptor.path(), &related)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn writes_to(process: &Path, descriptor: &Path, devices: &BTreeSet<DeviceNumber>) -> bool {
    // To look at the file itself may hang, if it is of a network that does not answer. Links and flags are the kernel's own.
    let is_device = std::fs::read_link(descriptor)
        .is_ok_and(|path| path.as_os_str().as_bytes().windows(5).any(|part| part == b"/dev/"));
    is_device
        && is_writable(process, descriptor).unwrap_or(false)
        && descriptor.metadata().is_ok_and(|metadata| {
            metadata.file_type().is_block_device() && devices.contains(&DeviceNumber::from(metadata.rdev()))
        })
}

fn is_writable(process: &Path, descriptor: &Path) -> Option<bool> {
    let info = std::fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()?)).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = libc::c_int::from_str_radix(flags.trim(), 8).ok()?;
    Some(flags & libc::O_ACCMODE != libc::O_RDONLY)
}

/// The device, the disk that it is a part of, and its own parts.
fn related(device: DeviceNumber) -> io::Result<BTreeSet<DeviceNumber>> {
    let directory = sys(device).canonicalize()?;
    let mut related = BTreeSet::from([device]);
    if is_partition(&directory) {
        related.extend(directory.parent().and_then(number_of));
    }
    let parts = std::fs::read_dir(&directory)?.flatten().map(|entry| entry.path());
    related.extend(parts.filter(|path| is_partition(path)).filter_map(|path| number_of(&path)));
    Ok(related)
}

fn sys(device: DeviceNumber) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", device.major, device.minor))
}

fn is_partition(directory: &Path) -> bool {
    directory.join("partition").is_file()
}

fn number_of(directory: &Path) -> Option<DeviceNumber> {
    std::fs::read_to_string(directory.join("dev")).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
