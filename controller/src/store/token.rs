use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use crate::domain::token::TokenState;

use super::page::{Page, PageSize, Sorted};
use super::{During, Store, StoreError, audit};

/// An enrolment token to be stored: the hash of it, never itself.
#[derive(Debug)]
pub(crate) struct NewToken {
    pub(crate) sha256: [u8; 32],
    pub(crate) max_uses: i32,
    pub(crate) ttl: Duration,
    pub(crate) labels: BTreeMap<String, String>,
    /// The machine that is taken over with it, instead of a new one.
    pub(crate) machine: Option<MachineId>,
    pub(crate) created_by: String,
}

/// A token as it is shown.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) state: TokenState,
    pub(crate) created_by: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) max_uses: i32,
    pub(crate) uses: i32,
    pub(crate) labels: Json<BTreeMap<String, String>>,
    pub(crate) machine_id: Option<Uuid>,
    pub(crate) machine_name: Option<String>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

/// Which tokens are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Usable,
    /// Those with which nobody can enrol any more as well.
    All,
}

/// What revoking a token did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    Now,
    Before,
}

impl Sorted for TokenRow {
    fn sort_key(&self) -> String {
        format!("{}:{}", self.created_at.timestamp_micros(), self.id)
    }
}

/// When the token was made that a page comes after, and its id.
pub(crate) fn parse_token_key(key: &str) -> Option<(DateTime<Utc>, String)> {
    let (micros, id) = key.split_once(':')?;
    Some((DateTime::from_timestamp_micros(micros.parse().ok()?)?, id.to_owned()))
}

/// What a token gives.
#[derive(Debug)]
pub(super) struct Consumed {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) machine: Option<MachineId>,
}

impl Store {
    pub(crate) async fn create_token(&self, token: NewToken) -> Result<DateTime<Utc>, StoreError> {
        self.transaction("create an enrolment token", move |connection| {
            Box::pin(async move {
                let (expires_at,): (DateTime<Utc>,) = sqlx::query_as(
                    "INSERT INTO enrolment_tokens (hash, labels, max_uses, created_by, expires_at, machine_id)
                     VALUES ($1, $2, $3, $4, now() + $5, $6) RETURNING expires_at",
                )
                .bind(token.sha256.as_slice())
                .bind(Json(&token.labels))
                .bind(token.max_uses)
                .bind(&token.created_by)
                .bind(token.ttl)
                .bind(token.machine.map(|machine| machine.0))
                .fetch_one(&mut *connection)
                .await
                .during("create an enrolment token")?;
                let detail =
                    json!({ "max_uses": token.max_uses, "labels": token.labels, "machine": token.machine.map(|machine| machine.0),
                    "expires_at": expires_at });
                audit::record(connection, &token.created_by, "token.create", &id_of(&token.sha256), detail)
                    .await?;
                Ok(expires_at)
            })
        })
        .await
    }

    /// Lists tokens, newest first.
    pub(crate) async fn list_tokens(
        &self,
        shown: Shown,
        after: Option<(DateTime<Utc>, String)>,
        size: PageSize,
    ) -> Result<Page<TokenRow>, StoreError> {
        let (after_at, after_id) = after.unzip();
        let rows = sqlx::query_as(concat!(
            include_str!("sql/token.sql"),
            "WHERE ($1::text IS NULL OR state = $1) AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
             ORDER BY created_at DESC, id DESC LIMIT $4"
        ))
        .bind(match shown {
            Shown::Usable => Some(TokenState::Usable.as_str()),
            Shown::All => None,
        })
        .bind(after_at)
        .bind(after_id)
        .bind(size.limit())
        .fetch_all(&self.pool)
        .await
        .during("list enrolment tokens")?;
        Ok(size.page(rows))
    }

    /// Ends a token; one that was ended stays as it is. A controller of before knows nothing of this, but that the token expired.
    pub(crate) async fn revoke_token(
        &self,
        id: &str,
        operator: &str,
    ) -> Result<(TokenRow, Revoked), StoreError> {
        let (id, operator) = (id.to_owned(), operator.to_owned());
        self.transaction("revoke an enrolment token", move |connection| {
            Box::pin(async move {
                let revoked: Option<(i32, i32)> = sqlx::query_as(
                    "UPDATE enrolment_tokens SET revoked_at = now(), expires_at = least(expires_at, now())
                     WHERE id = $1 AND revoked_at IS NULL RETURNING uses, max_uses",
                )
                .bind(&id)
                .fetch_optional(&mut *connection)
                .await
                .during("revoke an enrolment token")?;
                let done = if let Some((uses, max_uses)) = revoked {
                    let detail = json!({ "uses": uses, "max_uses": max_uses });
                    audit::record(connection, &operator, "token.revoke", &id, detail).await?;
                    Revoked::Now
                } else {
                    Revoked::Before
                };
                let row = sqlx::query_as(concat!(include_str!("sql/token.sql"), "WHERE id = $1"))
                    .bind(&id)
                    .fetch_optional(connection)
                    .await
                    .during("find an enrolment token")?;
                Ok((row.ok_or(StoreError::NotFound { noun: "token", name: id })?, done))
            })
        })
        .await
    }
}

/// Labels, and the machine whose place its bearer takes.
type Given = (Json<BTreeMap<String, String>>, Option<Uuid>);

/// Takes one use of a token, in one statement, and answers what it gives.
pub(super) async fn consume(
    connection: &mut PgConnection,
    sha256: &[u8; 32],
) -> Result<Consumed, StoreError> {
    let row: Option<Given> = sqlx::query_as(
        "UPDATE enrolment_tokens SET uses = uses + 1
         WHERE hash = $1 AND uses < max_uses AND expires_at > now() AND revoked_at IS NULL
         RETURNING labels, machine_id",
    )
    .bind(sha256.as_slice())
    .fetch_optional(&mut *connection)
    .await
    .during("use an enrolment token")?;
    match row {
        Some((labels, machine)) => Ok(Consumed { labels: labels.0, machine: machine.map(MachineId) }),
        None => Err(refusal(connection, sha256).await?),
    }
}

/// Why a token is not taken.
async fn refusal(connection: &mut PgConnection, sha256: &[u8; 32]) -> Result<StoreError, StoreError> {
    let revoked: Option<(bool,)> =
        sqlx::query_as("SELECT revoked_at IS NOT NULL FROM enrolment_tokens WHERE hash = $1")
            .bind(sha256.as_slice())
            .fetch_optional(connection)
            .await
            .during("look why an enrolment token is refused")?;
    Ok(match revoked {
        Some((true,)) => StoreError::TokenRevoked,
        _ => StoreError::TokenRefused,
    })
}

/// The id of a token: enough of its hash to find its row.
pub(crate) fn id_of(sha256: &[u8; 32]) -> String {
    hex::encode(&sha256[..6])
}
