//! Files that are either the old ones or the new ones after a crash, never half of one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Puts a file in place: written beside it, synced, renamed, directory synced. Mode 0600.
///
/// # Errors
/// Of the file system; the old file is intact then.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = parent.join(temporary);
    let written = write_synced(&temporary, content).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: the failure itself is what the caller needs to know.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_directory(parent)
}

/// Writes a whole new file, mode 0600, and syncs it; its name is durable only after [`sync_directory`].
///
/// # Errors
/// Of the file system.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Of the file system.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
