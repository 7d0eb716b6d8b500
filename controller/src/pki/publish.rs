use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::PkiError;

/// A file of a folder that is to be published as a whole.
pub(super) struct NewFile<'a> {
    pub(super) name: &'a str,
    pub(super) mode: u32,
    pub(super) content: &'a str,
}

/// Whether this call made the folder, or found it made by somebody else.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Published {
    Created,
    AlreadyThere,
}

/// Creates `dir` with these files, durably and in one step: after a crash at any moment the folder is there with all
/// of them or not at all. A folder that has anything in it stays as it is.
pub(super) fn publish(dir: &Path, files: &[NewFile<'_>]) -> Result<Published, PkiError> {
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|source| PkiError::Write { path: parent.to_owned(), source })?;
    let staging = Staging(parent.join(format!(".pki-{}", Uuid::new_v4())));
    fill(&staging.0, files).map_err(|source| PkiError::Write { path: staging.0.clone(), source })?;
    match fs::rename(&staging.0, dir) {
        Ok(()) => {}
        Err(error)
            if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) =>
        {
            return Ok(Published::AlreadyThere);
        }
        Err(source) => return Err(PkiError::Write { path: dir.to_owned(), source }),
    }
    sync(parent).map_err(|source| PkiError::Write { path: parent.to_owned(), source })?;
    Ok(Published::Created)
}

fn fill(dir: &Path, files: &[NewFile<'_>]) -> io::Result<()> {
    // Others may enter to read the certificate; the key has a mode of its own.
    DirBuilder::new().mode(0o755).create(dir)?;
    for file in files {
        let mut target =
            OpenOptions::new().write(true).create_new(true).mode(file.mode).open(dir.join(file.name))?;
        target.write_all(file.content.as_bytes())?;
        target.sync_all()?;
    }
    sync(dir)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes what was not renamed away.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
