//! Provider `offline`: a disk that nobody uses is its own snapshot, as long as nobody writes to it. Block devices are opened
//! exclusively and their writes counted, files are held under a read lease.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::atomic::AtomicBool;

use super::device::{self, WriteCount};
use super::{Hold, SnapshotDisk, SnapshotError, lease, place};
use crate::disk::DiskSource;

/// Opens a disk so that nobody can change it unnoticed.
///
/// # Errors
/// [`SnapshotError::InUse`] if somebody could write to it already, or what else stands against it.
pub(super) fn hold(source: &DiskSource) -> Result<SnapshotDisk, SnapshotError> {
    let metadata = source.path.metadata().map_err(|error| classify(source, error))?;
    let (file, hold) = if metadata.file_type().is_block_device() {
        hold_device(source)?
    } else if metadata.is_file() {
        hold_file(source)?
    } else {
        return Err(SnapshotError::Unsupported { disk: source.name.clone(), path: source.path.clone() });
    };
    // Only now: before, it could still change.
    let size_bytes = size(&file).map_err(|error| classify(source, error))?;
    Ok(SnapshotDisk {
        name: source.name.clone(),
        size_bytes,
        place: place(&source.name, &metadata),
        file,
        path: source.path.clone(),
        hold,
        broken: AtomicBool::new(false),
    })
}

fn hold_device(source: &DiskSource) -> Result<(File, Hold), SnapshotError> {
    let file = open(source, libc::O_EXCL)?;
    let (disk, path) = (source.name.clone(), source.path.clone());
    match device::is_open_for_writing(&file) {
        Ok(false) => {}
        Ok(true) => return Err(SnapshotError::InUse { disk, path }),
        Err(source) => return Err(SnapshotError::Uncounted { disk, path, source }),
    }
    match WriteCount::begin(&file) {
        Ok(count) => Ok((file, Hold::Exclusive(count))),
        Err(source) => Err(SnapshotError::Uncounted { disk, path, source }),
    }
}

fn hold_file(source: &DiskSource) -> Result<(File, Hold), SnapshotError> {
    // Not to wait here for the end of somebody else's write lease.
    let file = open(source, libc::O_NONBLOCK)?;
    lease::take(&file).map_err(|error| classify(source, error))?;
    Ok((file, Hold::Lease))
}

fn open(source: &DiskSource, flags: libc::c_int) -> Result<File, SnapshotError> {
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(&source.path);
    opened.map_err(|error| classify(source, error))
}

/// Size of an open file or block device, in bytes. Moves the file's position.
///
/// # Errors
/// Of the seek.
pub(super) fn size(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

fn classify(source: &DiskSource, error: io::Error) -> SnapshotError {
    let (disk, path) = (source.name.clone(), source.path.clone());
    match error.kind() {
        io::ErrorKind::NotFound => SnapshotError::NotFound { disk, path },
        io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock | io::ErrorKind::ExecutableFileBusy => {
            SnapshotError::InUse { disk, path }
        }
        io::ErrorKind::PermissionDenied => SnapshotError::Denied { disk, path },
        io::ErrorKind::InvalidInput => SnapshotError::Unsupported { disk, path },
        _ => SnapshotError::Open { disk, path, source: error },
    }
}

#[cfg(test)]
pub(super) mod tests;
