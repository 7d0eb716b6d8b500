use super::{During, Store, StoreError};

/// What the points of the catalogue come to.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(crate) struct VaultRow {
    pub(crate) listed_points: i64,
    pub(crate) damaged_points: i64,
    pub(crate) soft_deleted_points: i64,
    pub(crate) stored_bytes: i64,
}

impl Store {
    pub(crate) async fn vault(&self) -> Result<VaultRow, StoreError> {
        sqlx::query_as(include_str!("sql/vault.sql")).fetch_one(&self.pool).await.during("sum up the points")
    }
}
