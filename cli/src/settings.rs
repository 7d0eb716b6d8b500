use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::Connection;
use crate::error::CliError;

/// All that is needed to talk to the controller.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) address: String,
    pub(crate) ca_pem: String,
    pub(crate) api_key: String,
}

/// `~/.config/holdfast/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    address: Option<String>,
    ca_file: Option<PathBuf>,
    api_key_file: Option<PathBuf>,
}

/// Flags come before the environment, and that before the file.
pub(crate) fn load(connection: &Connection) -> Result<Settings, CliError> {
    let file = read_config()?;
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = |name: &str| set(name).map(PathBuf::from);
    let address = set("HOLDFAST_ADDRESS").map(|address| address.to_string_lossy().into_owned());
    let address = connection.address.clone().or(address).or(file.address).ok_or_else(|| {
        missing("the controller's address", "set HOLDFAST_ADDRESS, such as https://controller.example:7444")
    })?;
    let ca_file =
        connection.ca_file.clone().or_else(|| path("HOLDFAST_CA_FILE")).or(file.ca_file).ok_or_else(
            || {
                missing(
                    "the controller's CA certificate",
                    "set HOLDFAST_CA_FILE to a copy of the controller's pki/ca.pem",
                )
            },
        )?;
    let key_file = connection.api_key_file.clone().or_else(|| path("HOLDFAST_API_KEY_FILE"));
    let key_file = key_file.or(file.api_key_file).ok_or_else(|| {
        missing("your API key", "set HOLDFAST_API_KEY_FILE; `holdfast-controller api-key create` makes a key")
    })?;
    Ok(Settings { address, ca_pem: read(&ca_file)?, api_key: read_secret(&key_file)? })
}

fn read_config() -> Result<File, CliError> {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    let Some(path) = folder.map(|folder| folder.join("holdfast/config.toml")) else {
        return Ok(File::default());
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            toml::from_str(&text).map_err(|error| CliError::BadConfig { path, detail: error.to_string() })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(File::default()),
        Err(source) => Err(CliError::ReadFile { path, source }),
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::ReadFile { path: path.to_owned(), source })
}

/// Reads an API key, which nobody but its owner may have any right to.
fn read_secret(path: &Path) -> Result<String, CliError> {
    let failed = |source| CliError::ReadFile { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CliError::ExposedFile { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim().to_owned())
}

fn missing(what: &'static str, action: &str) -> CliError {
    CliError::Missing { what, action: action.to_owned() }
}
