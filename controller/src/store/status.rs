use std::time::Duration;

use super::{During, Store, StoreError};

#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct StatusRow {
    pub(crate) machines_online: i64,
    pub(crate) machines_offline: i64,
    pub(crate) machines_quarantined: i64,
    pub(crate) jobs_queued: i64,
    pub(crate) jobs_running: i64,
    pub(crate) jobs_failed_recently: i64,
    pub(crate) points: i64,
    /// Machines with points that were found damaged and are not deleted.
    pub(crate) machines_damaged: i64,
    /// Machines with points of which not all was read for so long.
    pub(crate) machines_unverified: i64,
    pub(crate) stored_bytes: i64,
}

impl Store {
    /// `verify`: within so long everything is to be read.
    pub(crate) async fn status(&self, verify: Duration) -> Result<StatusRow, StoreError> {
        sqlx::query_as(include_str!("sql/status.sql"))
            .bind(verify)
            .fetch_one(&self.pool)
            .await
            .during("read the status")
    }
}
