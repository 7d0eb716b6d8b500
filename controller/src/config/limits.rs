use std::sync::Arc;

use serde::Deserialize;

use holdfast_vault_engine::{Samples, Vault};

use super::ConfigError;

/// How much is done at once.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Transfers that run through this controller's gateway; each takes some 130 MiB of memory at most.
    pub(crate) transfers: u32,
    /// Memory for samples of what the vault has stored, in MiB; 0: what one machine stored is stored again for the next.
    pub(crate) deduplication_mib: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { transfers: 16, deduplication_mib: 128 }
    }
}

impl Limits {
    pub(super) fn check(self) -> Result<(), ConfigError> {
        if !(1..=4096).contains(&self.transfers) {
            return Err(ConfigError::Limits { name: "transfers", rule: "1 to 4096" });
        }
        if self.deduplication_mib > 16 << 10 {
            return Err(ConfigError::Limits { name: "deduplication_mib", rule: "0 to 16384" });
        }
        Ok(())
    }

    /// Transfers that the gateway takes: when another controller dies, its agents come here in the midst of theirs.
    pub(crate) fn gateway_transfers(self) -> usize {
        usize::try_from(self.transfers).unwrap_or(usize::MAX).saturating_mul(2)
    }

    /// What one machine has stored, others refer to, if there is memory for it.
    pub(crate) fn deduplicating(self, vault: Vault) -> Vault {
        match usize::try_from(self.deduplication_mib) {
            Ok(0) | Err(_) => vault,
            Ok(mib) => vault.deduplicating(Arc::new(Samples::within(mib << 20))),
        }
    }
}
