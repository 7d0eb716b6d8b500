use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::{During, StoreError};

/// What a caller's request id stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestKey {
    pub(crate) id: Uuid,
    pub(crate) method: &'static str,
    /// BLAKE3 of the body.
    pub(crate) body_hash: [u8; 32],
}

/// Claims a request id for `resource`. Answers the resource of the first request if this is a repetition.
pub(super) async fn claim(
    connection: &mut PgConnection,
    key: RequestKey,
    resource: Uuid,
) -> Result<Option<Uuid>, StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO requests (id, method, body_hash, resource_id) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
    )
    .bind(key.id)
    .bind(key.method)
    .bind(key.body_hash.as_slice())
    .bind(resource)
    .execute(&mut *connection)
    .await
    .during("claim a request id")?;
    if inserted.rows_affected() == 1 {
        return Ok(None);
    }
    let (method, body_hash, first): (String, Vec<u8>, Uuid) =
        sqlx::query_as("SELECT method, body_hash, resource_id FROM requests WHERE id = $1")
            .bind(key.id)
            .fetch_one(connection)
            .await
            .during("read a request id")?;
    if method == key.method && body_hash == key.body_hash {
        Ok(Some(first))
    } else {
        Err(StoreError::RequestReused { id: key.id })
    }
}
