//! All SQL, one file per noun. Statements with thought in them are in `store/sql/`, each run by a test against a
//! real Postgres.
//!
//! Architecture invariant: no SQL outside this folder, and no `Pool::begin` outside [`Store::transaction`].

mod advance;
pub(crate) mod agent;
pub(crate) mod api_key;
pub(crate) mod attempt;
pub(crate) mod audit;
pub(crate) mod claim;
pub(crate) mod collection;
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
mod verify;

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

pub(crate) use error::{During, StoreError};

/// Connections per controller. Statements are short; more only queue inside Postgres.
const MAX_CONNECTIONS: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The catalogue. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects and brings the schema up to date (under a lock: several controllers may start at once).
    pub(crate) async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(|source| StoreError::Url { source })?;
        let options = options.application_name("holdfast-controller");
        // Alone first: a pool would only say that it waited for too long.
        match tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Ok(first)) => drop(first.close().await),
            Ok(Err(source)) if is_refusal(&source) => return Err(StoreError::Refused { source }),
            Ok(Err(source)) => return Err(StoreError::Connect { source }),
            Err(_) => return Err(StoreError::Connect { source: sqlx::Error::PoolTimedOut }),
        }
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Connect { source })?;
        sqlx::migrate!("../migrations").run(&pool).await.map_err(|source| StoreError::Migrate { source })?;
        Ok(Self { pool })
    }

    /// Runs `work` in a transaction that is committed if it answers `Ok`.
    ///
    /// It runs in a task of its own: gRPC drops a handler when its client goes away, and a connection that is dropped
    /// inside `begin` returns to the pool with an open transaction.
    pub(crate) async fn transaction<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        let pool = self.pool.clone();
        let task = tokio::spawn(async move {
            #[expect(
                clippy::disallowed_methods,
                reason = "this is the one place, in a task that nobody drops"
            )]
            let mut transaction = pool.begin().await.during(operation)?;
            let value = work(&mut transaction).await?;
            transaction.commit().await.during(operation)?;
            Ok(value)
        });
        task.await.map_err(|source| StoreError::Task { operation, source })?
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
