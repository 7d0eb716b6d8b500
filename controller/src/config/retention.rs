use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, duration};

const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What becomes of points that nobody wants any more.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetentionConfig {
    /// How long a deleted point can be undeleted, at least; 0s: until the next collection.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) window: Duration,
    /// Between two looks for points that their policies do not keep any more.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) apply: Duration,
    /// Between two garbage collections.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) collect: Duration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self { window: hours(14 * 24), apply: hours(1), collect: hours(24) }
    }
}

impl RetentionConfig {
    pub(super) fn check(self) -> Result<(), ConfigError> {
        if self.window > LONGEST {
            return Err(ConfigError::Retention { name: "window", rule: "at most 366 days" });
        }
        for (name, value) in [("apply", self.apply), ("collect", self.collect)] {
            if value < Duration::from_millis(100) || value > LONGEST {
                return Err(ConfigError::Retention { name, rule: "100 ms to 366 days" });
            }
        }
        Ok(())
    }
}
