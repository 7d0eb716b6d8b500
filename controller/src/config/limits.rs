use serde::Deserialize;

use super::ConfigError;

/// How much is done at once.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Transfers that run through this controller's gateway; each takes some 130 MiB of memory at most.
    pub(crate) transfers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { transfers: 16 }
    }
}

impl Limits {
    pub(super) fn check(self) -> Result<(), ConfigError> {
        if (1..=4096).contains(&self.transfers) { Ok(()) } else { Err(ConfigError::Transfers) }
    }
}
