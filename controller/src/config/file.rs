use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, Limits, RetentionConfig, Timing, VaultPlace};

/// The file in the data directory that is read when no other one is named.
pub(crate) const CONFIG_FILE: &str = "controller.toml";

/// The configuration file. Unknown names are errors: a misspelt one would silently do nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) database_url: Option<String>,
    pub(super) operators: Option<SocketAddr>,
    pub(super) agents: Option<SocketAddr>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) host: Vec<String>,
    pub(super) vault: Option<VaultPlace>,
    pub(super) timing: Timing,
    pub(super) limits: Limits,
    pub(super) retention: RetentionConfig,
}

impl File {
    /// Reads the named file, or the one in the data directory if there is one.
    pub(super) fn load(named: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, ConfigError> {
        let default = data_dir.map(|dir| dir.join(CONFIG_FILE));
        let Some(path) = named.map(Path::to_owned).or(default) else {
            return Ok(Self::default());
        };
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|source| ConfigError::Parse { path, source }),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }
}
