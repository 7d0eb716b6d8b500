//! All SQL, one file per noun. Statements with thought in them are in `store/sql/`, each run by a test against a
//! real Postgres.
//!
//! Architecture invariant: no SQL outside this folder, and no `Pool::begin` outside [`Store::transaction`].

mod advance;
pub(crate) mod agent;
pub(crate) mod api_key;
pub(crate) mod attempt;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod claim;
pub(crate) mod collection;
mod column;
pub(crate) mod commit;
pub(crate) mod damage;
pub(crate) mod error;
pub(crate) mod job;
pub(crate) mod machine;
mod name_claim;
pub(crate) mod page;
pub(crate) mod point;
pub(crate) mod policy;
pub(crate) mod reap;
mod rebuild;
pub(crate) mod request;
pub(crate) mod schedule;
pub(crate) mod session;
mod slot;
pub(crate) mod standing;
pub(crate) mod status;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod token;
pub(crate) mod transfer;
pub(crate) mod vault;
pub(crate) mod verify;
mod waits;

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

pub(crate) use error::{During, StoreError};
use waits::Waits;

/// Connections per controller. Statements are short; more only queue inside Postgres.
const MAX_CONNECTIONS: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The catalogue. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: PgPool,
    transaction_limit: Duration,
}

impl Store {
    /// Connects and brings the schema up to date (under a lock: several controllers may start at once).
    pub(crate) async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_within(url, Waits::default()).await
    }

    async fn connect_within(url: &str, waits: Waits) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(|source| StoreError::Url { source })?;
        let options = options.application_name("holdfast-controller");
        // Alone first: a pool would only say that it waited for too long.
        let first = waits.notice_dead_peers(options.clone());
        let mut first = match tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&first)).await
        {
            Ok(Ok(first)) => first,
            Ok(Err(source)) if is_refusal(&source) => return Err(StoreError::Refused { source }),
            Ok(Err(source)) => return Err(StoreError::Connect { source }),
            Err(_) => return Err(StoreError::Connect { source: sqlx::Error::PoolTimedOut }),
        };
        sqlx::migrate!("../migrations")
            .run(&mut first)
            .await
            .map_err(|source| StoreError::Migrate { source })?;
        drop(first.close().await);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // The pool waits without an end for a connection that comes back to it.
            .after_release(move |connection, _| {
                Box::pin(async move {
                    let answered = tokio::time::timeout(waits.release, connection.ping()).await;
                    answered.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
                })
            })
            .connect_with(waits.bound(options))
            .await
            .map_err(|source| StoreError::Connect { source })?;
        Ok(Self { pool, transaction_limit: waits.transaction })
    }

    /// Runs `work` in a transaction that is committed if it answers `Ok`.
    ///
    /// It runs in a task of its own: gRPC drops a handler when its client goes away, and a connection that is dropped
    /// inside `begin` returns to the pool with an open transaction. One that takes too long ends with its connection.
    pub(crate) async fn transaction<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        let (pool, limit) = (self.pool.clone(), self.transaction_limit);
        let task = tokio::spawn(async move {
            let mut connection = pool.acquire().await.during(operation)?;
            let done = tokio::time::timeout(limit, within(&mut connection, operation, work)).await;
            done.unwrap_or_else(|_| {
                // Nobody knows what it still waits for.
                drop(connection.detach());
                Err(StoreError::TimedOut { operation, limit })
            })
        });
        task.await.map_err(|source| StoreError::Task { operation, source })?
    }
}

/// See [`Store::transaction`], the one place that begins a transaction: in a task that nobody drops, unless the connection goes with it.
async fn within<T, F>(
    connection: &mut PgConnection,
    operation: &'static str,
    work: F,
) -> Result<T, StoreError>
where
    F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, StoreError>>,
{
    let mut transaction = connection.begin().await.during(operation)?;
    match work(&mut transaction).await {
        Ok(value) => transaction.commit().await.during(operation).map(|()| value),
        Err(error) => {
            // Dropped, it would hold its locks for a while after the answer. If it cannot be, its connection is gone, and they with it.
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

/// Whether the server answered that these credentials or this database will not do, which waiting does not change.
fn is_refusal(error: &sqlx::Error) -> bool {
    // Classes of SQLSTATE: 28 is invalid authorization, 3D an unknown database.
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code.starts_with("28") || code.starts_with("3D"))
}
