//! Garbage collections of the vault.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use super::{During, Store, StoreError, audit};

/// What starts a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Once in each period, whichever controller comes first.
    Schedule(Duration),
    Operator,
}

/// What a collection would do, or did; see `vault.proto`.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct ReportRow {
    pub(crate) purged_points: u64,
    pub(crate) condemned_segments: u64,
    pub(crate) condemned_bytes: u64,
    pub(crate) deleted_segments: u64,
    pub(crate) deleted_bytes: u64,
    pub(crate) compacted_segments: u64,
    pub(crate) compacted_bytes: u64,
    pub(crate) waiting_backups: u32,
    pub(crate) held_machines: Vec<HeldRow>,
    pub(crate) read_bytes: u64,
    pub(crate) clock_leap_seconds: Option<u64>,
    /// Not all of them, if there are very many; so with those that are waited for.
    pub(crate) purged: Vec<NumberedRow>,
    pub(crate) waiting: Vec<NumberedRow>,
}

/// A point, or a backup that is to become one, by its number in the vault.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, sqlx::FromRow)]
pub(crate) struct NumberedRow {
    pub(crate) machine: Uuid,
    pub(crate) seq: i64,
    /// `None`, like the point, if the catalogue does not know it.
    pub(crate) machine_name: Option<String>,
    pub(crate) point: Option<Uuid>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct HeldRow {
    pub(crate) machine: Uuid,
    pub(crate) reason: String,
}

/// One that came to its end.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct CollectionRow {
    pub(crate) actor: String,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) finished_at: DateTime<Utc>,
    pub(crate) report: Json<ReportRow>,
}

impl Store {
    /// Records that a collection begins: `None` if its turn was taken by another controller.
    pub(crate) async fn begin_collection(
        &self,
        occasion: Occasion,
        actor: &str,
    ) -> Result<Option<Uuid>, StoreError> {
        let (id, actor) = (Uuid::now_v7(), actor.to_owned());
        let period = match occasion {
            Occasion::Schedule(period) => Some(period),
            Occasion::Operator => None,
        };
        self.transaction("begin a collection", move |connection| {
            Box::pin(async move {
                let inserted = sqlx::query(
                    "INSERT INTO collections (id, slot, actor)
                     VALUES ($1, date_bin($2::interval, now(), timestamptz '2000-01-01'), $3) ON CONFLICT (slot) DO NOTHING",
                )
                .bind(id)
                .bind(period)
                .bind(&actor)
                .execute(&mut *connection)
                .await
                .during("begin a collection")?;
                if inserted.rows_affected() == 0 {
                    return Ok(None);
                }
                audit::record(connection, &actor, "vault.collect", &id.to_string(), json!({})).await?;
                Ok(Some(id))
            })
        })
        .await
    }

    pub(crate) async fn end_collection(
        &self,
        id: Uuid,
        report: Result<ReportRow, String>,
    ) -> Result<(), StoreError> {
        let (report, error) = match report {
            Ok(report) => (Some(Json(report)), None),
            Err(error) => (None, Some(error)),
        };
        self.transaction("end a collection", move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE collections SET finished_at = now(), report = $2, error = $3 WHERE id = $1",
                )
                .bind(id)
                .bind(report)
                .bind(error)
                .execute(connection)
                .await
                .during("end a collection")?;
                Ok(())
            })
        })
        .await
    }

    /// What the catalogue knows of these numbers of these machines, in the same order.
    pub(crate) async fn numbered(&self, all: Vec<(Uuid, i64)>) -> Result<Vec<NumberedRow>, StoreError> {
        let (machines, seqs): (Vec<Uuid>, Vec<i64>) = all.into_iter().unzip();
        sqlx::query_as(
            "SELECT given.machine, given.seq, m.name AS machine_name, p.id AS point
             FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS given (machine, seq, place)
             LEFT JOIN machines m ON m.id = given.machine
             LEFT JOIN points p ON p.machine_id = given.machine AND p.seq = given.seq
             ORDER BY given.place",
        )
        .bind(machines)
        .bind(seqs)
        .fetch_all(&self.pool)
        .await
        .during("name points of a collection")
    }

    /// When the newest one began, unless it has ended: it runs, or was broken off.
    pub(crate) async fn collecting_since(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let newest: Option<(DateTime<Utc>, bool)> = sqlx::query_as(
            "SELECT started_at, finished_at IS NULL FROM collections ORDER BY started_at DESC LIMIT 1",
        )
        .fetch_optional(&self.pool)
        .await
        .during("find the newest collection")?;
        Ok(newest.and_then(|(began, is_open)| is_open.then_some(began)))
    }

    pub(crate) async fn last_collection(&self) -> Result<Option<CollectionRow>, StoreError> {
        sqlx::query_as(
            "SELECT actor, started_at, finished_at, report FROM collections
             WHERE finished_at IS NOT NULL AND report IS NOT NULL ORDER BY started_at DESC LIMIT 1",
        )
        .fetch_optional(&self.pool)
        .await
        .during("find the last collection")
    }
}
