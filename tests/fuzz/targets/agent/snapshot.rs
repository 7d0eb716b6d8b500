//! What the configuration needs of the snapshots.

pub(crate) mod watchdog {
    /// As in the agent.
    pub(crate) const FREEZE_LIMIT_MAX: std::time::Duration = std::time::Duration::from_secs(10);
}
