//! `FILE.partial`: a fresh file that only its owner can read, locked as long as it is written. Whatever has that name
//! already is never written to: somebody may have put it there, or it is a finished disk under another name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use crate::RestoreError;

/// How often a name may be lost to another restore before this one gives up.
const TRIES: usize = 8;

/// Makes and locks the file `partial`, on its way to `path`. What a killed restore left there is removed.
pub(crate) fn create(partial: &Path, path: &Path) -> Result<File, RestoreError> {
    let failed = |source| failed("create", partial, source);
    for _ in 0..TRIES {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial) {
            Ok(file) => {
                lock(&file, partial, path).inspect_err(|error| {
                    // One that is busy is another restore's to take away.
                    if !matches!(error, RestoreError::Busy { .. }) {
                        let _ = std::fs::remove_file(partial);
                    }
                })?;
                // Before it was locked, another restore may have taken it for a leftover.
                if is_named(&file, partial).map_err(failed)? {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_leftover(partial, path)?,
            Err(error) => return Err(failed(error)),
        }
    }
    Err(RestoreError::Busy { path: path.to_owned() })
}

/// Removes the name of a file that nobody is writing.
fn remove_leftover(partial: &Path, path: &Path) -> Result<(), RestoreError> {
    let failed = |source| failed("replace", partial, source);
    let not_a_file = || RestoreError::NotAFile { path: partial.to_owned() };
    // Neither to follow a link nor to wait for the other end of a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(partial);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let is_file = partial.symlink_metadata().is_ok_and(|found| found.is_file());
            return Err(if is_file { failed(error) } else { not_a_file() });
        }
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(not_a_file());
    }
    lock(&file, partial, path)?;
    // Until it was locked, its restore may have come to its end, and the name may be another one's.
    if is_named(&file, partial).map_err(failed)? {
        std::fs::remove_file(partial).map_err(failed)?;
    }
    Ok(())
}

fn lock(file: &File, partial: &Path, path: &Path) -> Result<(), RestoreError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => RestoreError::Busy { path: path.to_owned() },
        TryLockError::Error(source) => failed("lock", partial, source),
    })
}

/// Whether this file has this name.
pub(crate) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match path.symlink_metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn failed(operation: &'static str, path: &Path, source: io::Error) -> RestoreError {
    RestoreError::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
