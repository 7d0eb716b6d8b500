//! The configuration that the first `init` writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use holdfast_vault_engine::S3;

use crate::config::{CONFIG_FILE, InitConfig, VaultPlace};

use super::{InitError, tell};

/// What `serve` has to find again.
#[derive(Serialize)]
struct Remembered<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    host: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    vault: Option<PathBuf>,
}

pub(super) fn write_config(config: &InitConfig) -> Result<(), InitError> {
    let path = config.folders.data.join(CONFIG_FILE);
    let vault = match &config.folders.vault {
        _ if !config.vault_was_named => None,
        // Another working directory must not make it another folder.
        VaultPlace::Directory(path) => {
            Some(std::path::absolute(path).map_err(|source| InitError::Look { path: path.clone(), source })?)
        }
        VaultPlace::S3(s3) if **s3 == S3::at(s3.location.clone()) => Some(s3.location.to_string().into()),
        // Its table is in a configuration file already.
        VaultPlace::S3(_) => None,
    };
    let remembered = Remembered { host: &config.hosts, vault };
    let text = toml::to_string(&remembered).map_err(|source| InitError::Encode { source })?;
    match make_file(&path, &text) {
        Ok(()) => tell(true, path.display(), "configuration"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            tell(false, path.display(), "configuration; edit it to change --host or --vault");
        }
        Err(source) => return Err(InitError::Make { path, source }),
    }
    Ok(())
}

/// Makes a file that is whole once it has its name, and stays then, whatever dies. One that is there already is left alone.
fn make_file(path: &Path, text: &str) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut staged = path.to_owned().into_os_string();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&staged)?;
    let made = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&staged, path));
    fs::remove_file(&staged)?;
    made?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
