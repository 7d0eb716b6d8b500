use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

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
                audit::record(connection, &token.created_by, "token.create", &short(&token.sha256), detail)
                    .await?;
                Ok(expires_at)
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
         WHERE hash = $1 AND uses < max_uses AND expires_at > now() RETURNING labels, machine_id",
    )
    .bind(sha256.as_slice())
    .fetch_optional(connection)
    .await
    .during("use an enrolment token")?;
    row.map(|(labels, machine)| Consumed { labels: labels.0, machine: machine.map(MachineId) })
        .ok_or(StoreError::TokenRefused)
}

/// Enough of a hash to find its row, for the audit.
pub(super) fn short(sha256: &[u8; 32]) -> String {
    hex::encode(&sha256[..6])
}
