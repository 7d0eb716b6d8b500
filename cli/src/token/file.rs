use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// The file that a token goes to, with its name already, but empty: a token for which there is no place is not made. It is removed
/// again unless the token was written.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    file: File,
    is_written: bool,
}

/// Refuses a name that is taken.
pub(super) fn check(path: &Path) -> Result<(), CliError> {
    match path.symlink_metadata() {
        Ok(_) => Err(CliError::FileExists { path: path.to_owned() }),
        // Any other error comes back when the file is made.
        Err(_) => Ok(()),
    }
}

impl TokenFile {
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, is_written: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(CliError::FileExists { path: path.to_owned() })
            }
            Err(source) => Err(CliError::WriteFile { path: path.to_owned(), source }),
        }
    }

    /// The token alone, on a line.
    pub(super) fn write(mut self, token: &str) -> Result<(), CliError> {
        let written =
            self.file.write_all(format!("{token}\n").as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|source| CliError::WriteFile { path: self.path.clone(), source })?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        if !self.is_written {
            let _ = fs::remove_file(&self.path);
        }
    }
}
