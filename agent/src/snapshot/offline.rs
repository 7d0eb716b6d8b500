//! Provider `offline`: a disk that nobody uses is its own snapshot, as long as it is kept from being used. Block
//! devices are opened exclusively, files are held under a read lease.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::atomic::AtomicBool;

use super::{Hold, SnapshotDisk, SnapshotError, lease};
use crate::disk::DiskSource;

/// Opens a disk so that nobody can change it.
///
/// # Errors
/// [`SnapshotError::InUse`] if somebody could write to it already, or what else stands against it.
pub(super) fn hold(source: &DiskSource) -> Result<SnapshotDisk, SnapshotError> {
    let failed = |error: io::Error| classify(source, error);
    let hold = kind_of(source)?;
    let mut options = OpenOptions::new();
    options.read(true);
    // For a file: not to wait here for the end of somebody else's write lease.
    let flags = if hold == Hold::Lease { libc::O_NONBLOCK } else { libc::O_EXCL };
    let file = options.custom_flags(flags).open(&source.path).map_err(failed)?;
    if hold == Hold::Lease {
        lease::take(&file).map_err(failed)?;
    }
    // Only now: before, it could still change.
    let size_bytes = size(&file).map_err(failed)?;
    Ok(SnapshotDisk {
        name: source.name.clone(),
        size_bytes,
        file,
        path: source.path.clone(),
        hold,
        broken: AtomicBool::new(false),
    })
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

fn kind_of(source: &DiskSource) -> Result<Hold, SnapshotError> {
    let metadata = source.path.metadata().map_err(|error| classify(source, error))?;
    if metadata.file_type().is_block_device() {
        Ok(Hold::Exclusive)
    } else if metadata.is_file() {
        Ok(Hold::Lease)
    } else {
        Err(SnapshotError::Unsupported { disk: source.name.clone(), path: source.path.clone() })
    }
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
mod tests;
