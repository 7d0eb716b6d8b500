use sqlx::postgres::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{During, Store, StoreError};

/// What a caller's request id stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestKey {
    pub(crate) id: Uuid,
    pub(crate) method: &'static str,
    /// BLAKE3 of the body.
    pub(crate) body_hash: [u8; 32],
}

/// A request that came before, under the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstRequest {
    pub(crate) resource: Uuid,
    /// It was carried out.
    pub(crate) is_done: bool,
}

impl Store {
    /// The first request, if this is a repetition.
    pub(crate) async fn repeated_request(
        &self,
        key: Option<RequestKey>,
    ) -> Result<Option<FirstRequest>, StoreError> {
        match key {
            Some(key) => first(&self.pool, key).await,
            None => Ok(None),
        }
    }

    /// What a request is about: `resource`, or what its first repetition was about.
    pub(crate) async fn claim_request(
        &self,
        key: Option<RequestKey>,
        resource: Uuid,
    ) -> Result<Uuid, StoreError> {
        let Some(key) = key else { return Ok(resource) };
        self.transaction("claim a request id", move |connection| {
            Box::pin(async move { Ok(claim(connection, key, resource).await?.unwrap_or(resource)) })
        })
        .await
    }

    /// What a request asked for is carried out.
    pub(crate) async fn finish_request(&self, key: Option<RequestKey>) -> Result<(), StoreError> {
        let Some(key) = key else { return Ok(()) };
        sqlx::query("UPDATE requests SET done_at = now() WHERE id = $1")
            .bind(key.id)
            .execute(&self.pool)
            .await
            .during("finish a request")?;
        Ok(())
    }
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
    Ok(first(connection, key).await?.map(|first| first.resource))
}

/// The first request with this id.
async fn first<'c>(
    executor: impl PgExecutor<'c>,
    key: RequestKey,
) -> Result<Option<FirstRequest>, StoreError> {
    let first: Option<(String, Vec<u8>, Uuid, bool)> = sqlx::query_as(
        "SELECT method, body_hash, resource_id, done_at IS NOT NULL FROM requests WHERE id = $1",
    )
    .bind(key.id)
    .fetch_optional(executor)
    .await
    .during("read a request id")?;
    match first {
        None => Ok(None),
        Some((method, body_hash, resource, is_done))
            if method == key.method && body_hash == key.body_hash =>
        {
            Ok(Some(FirstRequest { resource, is_done }))
        }
        Some(_) => Err(StoreError::RequestReused { id: key.id }),
    }
}
