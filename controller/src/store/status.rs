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
    pub(crate) stored_bytes: i64,
}

impl Store {
    pub(crate) async fn status(&self) -> Result<StatusRow, StoreError> {
        sqlx::query_as(include_str!("sql/status.sql")).fetch_one(&self.pool).await.during("read the status")
    }
}
