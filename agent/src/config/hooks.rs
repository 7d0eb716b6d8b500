//! `[hooks]` of `agent.toml`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// Programs of the machine's owner that run around a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HooksConfig {
    /// Quiesces the application. Absolute, like the others.
    pub(crate) before_snapshot: Option<PathBuf>,
    /// Lets the application go on.
    pub(crate) after_thaw: Option<PathBuf>,
    /// Sees the snapshot.
    pub(crate) after_snapshot: Option<PathBuf>,
    /// How long each of them may run.
    #[serde(with = "crate::duration")]
    pub(crate) timeout: Duration,
    pub(crate) on_failure: OnFailure,
}

/// What follows when a hook fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFailure {
    /// The snapshot is taken, is not application-consistent, and comes with a warning.
    Continue,
    /// There is no snapshot.
    Fail,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self {
            before_snapshot: None,
            after_thaw: None,
            after_snapshot: None,
            timeout: Duration::from_secs(30),
            on_failure: OnFailure::Continue,
        }
    }
}

impl HooksConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        for path in [&self.before_snapshot, &self.after_thaw, &self.after_snapshot].into_iter().flatten() {
            if !path.is_absolute() {
                return Err(format!("hooks: {path:?} must be an absolute path"));
            }
        }
        Ok(())
    }
}
