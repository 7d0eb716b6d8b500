//! `[snapshot]` of `agent.toml`.

use std::time::Duration;

use serde::Deserialize;

/// Nothing is ever frozen for longer.
pub(crate) const FREEZE_LIMIT_MAX: Duration = Duration::from_secs(10);

/// Limits of taking a snapshot of disks in use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SnapshotConfig {
    /// How long anything may be frozen, at most 10 s.
    #[serde(with = "crate::duration")]
    pub(crate) freeze_limit: Duration,
    /// How long writing out what is to be frozen may take before.
    #[serde(with = "crate::duration")]
    pub(crate) prepare_limit: Duration,
    /// Images of more extents take too long to clone; at least 1.
    pub(crate) max_extents: u32,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { freeze_limit: FREEZE_LIMIT_MAX, prepare_limit: Duration::from_secs(300), max_extents: 20_000 }
    }
}

impl SnapshotConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.freeze_limit > FREEZE_LIMIT_MAX {
            return Err(format!("snapshot.freeze_limit must be at most {} s", FREEZE_LIMIT_MAX.as_secs()));
        }
        if self.max_extents == 0 {
            return Err("snapshot.max_extents must be at least 1".to_owned());
        }
        Ok(())
    }
}
