//! What the controller is told: flags before environment before file before default.

mod command;
mod duration;
mod file;
mod limits;
mod retention;
mod timing;
mod vault;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub(crate) use command::{
    ApiKeyCommand, Cli, Command, CreateApiKey, DatabaseArgs, InitCommand, LogFormat, RevokeApiKey, RoleName,
    ServeCommand,
};
pub(crate) use file::CONFIG_FILE;
pub(crate) use limits::Limits;
pub(crate) use retention::RetentionConfig;
pub(crate) use timing::Timing;
pub(crate) use vault::VaultPlace;

use file::File;

const OPERATORS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7444);
const AGENTS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);

/// What went wrong with the configuration. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration file {} is not right", path.display())]
    Parse { path: PathBuf, source: toml::de::Error },
    #[error("{name} is missing")]
    Missing { name: &'static str, how: &'static str },
    #[error("{name} in [timing] must be {rule}")]
    Timing { name: &'static str, rule: &'static str },
    #[error("{name} in [retention] must be {rule}")]
    Retention { name: &'static str, rule: &'static str },
    #[error("{name} in [limits] must be {rule}")]
    Limits { name: &'static str, rule: &'static str },
    #[error("--names-in-database is for a vault in S3: in a folder nobody can take a name twice")]
    NamesOfFolder,
    #[error("the listeners for operators and agents cannot share the address {address}")]
    SameAddress { address: SocketAddr },
}

impl ConfigError {
    pub(crate) fn next_step(&self) -> Option<String> {
        match self {
            Self::Missing { how, .. } => Some((*how).to_owned()),
            Self::NamesOfFolder => Some("leave it out".to_owned()),
            Self::SameAddress { .. } => Some("give --operators and --agents different ports".to_owned()),
            Self::Read { .. } => Some("check --config and the file's permissions".to_owned()),
            Self::Parse { .. } | Self::Timing { .. } | Self::Retention { .. } | Self::Limits { .. } => {
                Some("correct that line; docs/configuration.md has every key".to_owned())
            }
        }
    }
}

/// What `init` works with.
#[derive(Debug)]
pub(crate) struct InitConfig {
    pub(crate) folders: Folders,
    pub(crate) hosts: Vec<String>,
    /// Whether `vault` was given, not the default.
    pub(crate) vault_was_named: bool,
    /// Whether there is to be a new vault where a key says that there was one.
    pub(crate) new_vault: bool,
    /// Whether the database is to say who takes a name in a new vault.
    pub(crate) names_in_database: bool,
}

/// What `serve` works with.
pub(crate) struct ServeConfig {
    pub(crate) folders: Folders,
    pub(crate) database_url: String,
    pub(crate) operators: SocketAddr,
    pub(crate) agents: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    /// DNS names and addresses by which agents and operators reach this controller.
    pub(crate) hosts: Vec<String>,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) retention: RetentionConfig,
}

/// Where the controller keeps its files.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    pub(crate) data: PathBuf,
    pub(crate) vault: VaultPlace,
}

impl Folders {
    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    pub(crate) fn vault_key(&self) -> PathBuf {
        self.data.join("vault.key")
    }

    /// Where a running controller tells which addresses it serves.
    pub(crate) fn addresses(&self) -> PathBuf {
        self.data.join("addresses.json")
    }

    fn resolve(data: Option<PathBuf>, vault: Option<VaultPlace>) -> Result<Self, ConfigError> {
        let data = data.ok_or(ConfigError::Missing {
            name: "the data directory",
            how: "give --data-dir, or set HOLDFAST_DATA_DIR or data_dir in the configuration file",
        })?;
        let vault = vault.unwrap_or_else(|| VaultPlace::Directory(data.join("vault")));
        Ok(Self { data, vault })
    }
}

impl InitConfig {
    pub(crate) fn resolve(config: Option<&Path>, command: InitCommand) -> Result<Self, ConfigError> {
        let file = File::load(config, command.data_dir.as_deref())?;
        let vault = command.vault.or(file.vault);
        let vault_was_named = vault.is_some();
        let folders = Folders::resolve(command.data_dir.or(file.data_dir), vault)?;
        if command.names_in_database && matches!(folders.vault, VaultPlace::Directory(_)) {
            return Err(ConfigError::NamesOfFolder);
        }
        Ok(Self {
            folders,
            hosts: or_else(command.host, file.host),
            vault_was_named,
            new_vault: command.new_vault,
            names_in_database: command.names_in_database,
        })
    }
}

impl ServeConfig {
    pub(crate) fn resolve(config: Option<&Path>, command: ServeCommand) -> Result<Self, ConfigError> {
        let file = File::load(config, command.data_dir.as_deref())?;
        let folders = Folders::resolve(command.data_dir.or(file.data_dir), command.vault.or(file.vault))?;
        let operators = command.operators.or(file.operators).unwrap_or(OPERATORS);
        let agents = command.agents.or(file.agents).unwrap_or(AGENTS);
        if operators == agents && operators.port() != 0 {
            return Err(ConfigError::SameAddress { address: agents });
        }
        file.timing.check()?;
        file.limits.check()?;
        file.retention.check()?;
        Ok(Self {
            folders,
            database_url: database_url(command.database_url.or(file.database_url))?,
            operators,
            agents,
            metrics: command.metrics.or(file.metrics),
            hosts: or_else(command.host, file.host),
            timing: file.timing,
            limits: file.limits,
            retention: file.retention,
        })
    }
}

/// The database that `api-key` works on.
pub(crate) fn api_key_database(config: Option<&Path>, command: &DatabaseArgs) -> Result<String, ConfigError> {
    let file = File::load(config, command.data_dir.as_deref())?;
    database_url(command.database_url.clone().or(file.database_url))
}

fn database_url(url: Option<String>) -> Result<String, ConfigError> {
    url.filter(|url| !url.is_empty()).ok_or(ConfigError::Missing {
        name: "the database URL",
        how: "give --database-url, or set HOLDFAST_DATABASE_URL or database_url in the configuration file; \
              `deploy/private-postgres start DIR` starts a database to try things out",
    })
}

fn or_else(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    if first.is_empty() { second } else { first }
}

/// The URL may hold a password.
impl std::fmt::Debug for ServeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServeConfig").field("folders", &self.folders).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "../../tests/documented.rs"]
mod documented;
#[cfg(test)]
mod tests;
