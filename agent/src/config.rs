//! `agent.toml`: the only thing that decides which controller, gateways and disks this agent deals with.

mod hooks;
mod snapshot;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::address::{Address, bare_host};
pub(crate) use hooks::{HooksConfig, OnFailure};
pub(crate) use snapshot::{FREEZE_LIMIT_MAX, SnapshotConfig};

/// The agent's configuration. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `https://HOST:PORT` of the controller's listener for agents.
    pub(crate) controller: ControllerUrl,
    /// Identity, unacknowledged reports and local maps live here.
    #[serde(default = "default_state_dir")]
    pub(crate) state_dir: PathBuf,
    /// Whether whole block devices are found without being named.
    #[serde(default = "enabled")]
    pub(crate) discover: bool,
    /// Disks besides those that are found.
    #[serde(default, rename = "disk")]
    pub(crate) disks: Vec<ConfiguredDisk>,
    /// `HOST` or `HOST:PORT` of gateways besides the controller's own host.
    #[serde(default)]
    pub(crate) allowed_gateways: Vec<String>,
    /// Connections per transfer, 1 to 8.
    #[serde(default = "default_upload_streams")]
    pub(crate) upload_streams: usize,
    /// zstd level, -7 to 19.
    #[serde(default = "default_compression_level")]
    pub(crate) compression_level: i32,
    #[serde(default)]
    pub(crate) snapshot: SnapshotConfig,
    #[serde(default)]
    pub(crate) hooks: HooksConfig,
    #[serde(default)]
    pub(crate) timing: Timing,
}

/// A disk that the machine's owner named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfiguredDisk {
    pub(crate) name: String,
    /// A block device or an image file, absolute.
    pub(crate) path: PathBuf,
}

/// Waits and periods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Timing {
    /// Shortest wait before the next connection.
    #[serde(with = "crate::duration")]
    pub(crate) reconnect_min: Duration,
    /// Longest wait before the next connection.
    #[serde(with = "crate::duration")]
    pub(crate) reconnect_max: Duration,
    /// TCP, TLS and HTTP/2 together.
    #[serde(with = "crate::duration")]
    pub(crate) connect_timeout: Duration,
    /// One short call, and the wait for Welcome.
    #[serde(with = "crate::duration")]
    pub(crate) call_timeout: Duration,
    /// HTTP/2 pings on every connection.
    #[serde(with = "crate::duration")]
    pub(crate) keepalive_interval: Duration,
    /// How long a ping may stay unanswered.
    #[serde(with = "crate::duration")]
    pub(crate) keepalive_timeout: Duration,
    /// How often the disks are listed again.
    #[serde(with = "crate::duration")]
    pub(crate) disk_poll: Duration,
    /// How long a transfer may stand still before its connections are given up, and a disk before its attempt is.
    #[serde(with = "crate::duration")]
    pub(crate) stall_timeout: Duration,
    /// How often an upload stream without data shows that it is alive.
    #[serde(with = "crate::duration")]
    pub(crate) transfer_keepalive: Duration,
    /// How long a transfer goes on trying after an outage began, without getting any further.
    #[serde(with = "crate::duration")]
    pub(crate) transfer_patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            reconnect_min: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(20),
            disk_poll: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(300),
            transfer_keepalive: Duration::from_secs(60),
            transfer_patience: Duration::from_secs(3600),
        }
    }
}

/// The controller's address, written as an `https` URL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ControllerUrl(pub(crate) Address);

impl TryFrom<String> for ControllerUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let shape = || format!("controller = {text:?}: expected \"https://HOST:PORT\"");
        let rest = text.strip_prefix("https://").ok_or_else(shape)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        rest.parse().map(Self).map_err(|_| shape())
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {} cannot be used", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("the configuration {} cannot be used: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// If it cannot be read, has an unknown key or a value outside its limits.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        config.check().map_err(|reason| ConfigError::Invalid { path: path.to_owned(), reason })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !self.state_dir.is_absolute() {
            return Err(format!("state_dir = {:?} must be an absolute path", self.state_dir));
        }
        if !(1..=8).contains(&self.upload_streams) {
            return Err(format!("upload_streams = {} must be 1 to 8", self.upload_streams));
        }
        if !(-7..=19).contains(&self.compression_level) || self.compression_level == 0 {
            return Err(format!(
                "compression_level = {} must be -7 to -1 or 1 to 19",
                self.compression_level
            ));
        }
        if self.timing.reconnect_min > self.timing.reconnect_max {
            return Err("timing.reconnect_min is longer than timing.reconnect_max".to_owned());
        }
        self.snapshot.check()?;
        self.hooks.check()?;
        for gateway in &self.allowed_gateways {
            if bare_host(gateway).is_none() && gateway.parse::<Address>().is_err() {
                return Err(format!("allowed_gateways: {gateway:?} is neither HOST nor HOST:PORT"));
            }
        }
        let mut names = std::collections::BTreeSet::new();
        for disk in &self.disks {
            if !is_disk_name(&disk.name) {
                return Err(format!(
                    "disk name {:?} must be 1 to 64 of [A-Za-z0-9._-] and not start with - or .",
                    disk.name
                ));
            }
            if !disk.path.is_absolute() {
                return Err(format!("disk {:?}: path {:?} must be absolute", disk.name, disk.path));
            }
            if !names.insert(&disk.name) {
                return Err(format!("two disks have the name {:?}", disk.name));
            }
        }
        Ok(())
    }

    /// Whether data may be sent to this gateway.
    pub(crate) fn allows_gateway(&self, gateway: &Address) -> bool {
        gateway.host == self.controller.0.host
            || self.allowed_gateways.iter().any(|allowed| {
                bare_host(allowed) == Some(gateway.host.as_str()) || allowed.parse().as_ref() == Ok(gateway)
            })
    }
}

/// Whether the text may be the name of a disk.
pub(crate) fn is_disk_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/holdfast-agent")
}

fn enabled() -> bool {
    true
}

fn default_upload_streams() -> usize {
    2
}

fn default_compression_level() -> i32 {
    1
}

#[cfg(test)]
mod tests;
