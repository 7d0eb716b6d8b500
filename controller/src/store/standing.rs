//! Where points stand, as the vault decided.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use crate::domain::point::{LockMode, PointState};

use super::{During, Store, StoreError, audit};

/// The action of a decision that takes a deletion back.
pub(crate) const UNDELETE: &str = "point.undelete";

/// Where a point stands, and what led there.
#[derive(Clone, Debug)]
pub(crate) struct NewStanding {
    pub(crate) machine: MachineId,
    pub(crate) seq: i64,
    pub(crate) state: NewPointState,
    /// How many decisions led here.
    pub(crate) decisions: i32,
    pub(crate) lock: Option<(LockMode, DateTime<Utc>)>,
    pub(crate) events: Vec<DecidedRow>,
}

/// One decision about a point.
#[derive(Clone, Debug)]
pub(crate) struct DecidedRow {
    /// From 1.
    pub(crate) number: i32,
    pub(crate) actor: String,
    pub(crate) action: &'static str,
    /// For the audit.
    pub(crate) detail: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewPointState {
    /// Listed, or damaged if it was found to be.
    Kept,
    SoftDeleted {
        at: DateTime<Utc>,
        purge_after: DateTime<Utc>,
    },
    Purged,
}

impl NewPointState {
    fn state(self) -> PointState {
        match self {
            Self::Kept => PointState::Listed,
            Self::SoftDeleted { .. } => PointState::SoftDeleted,
            Self::Purged => PointState::Purged,
        }
    }
}

impl Store {
    /// Records where a point stands, unless something newer is known, and who decided what since the last that was known.
    /// Idempotent.
    pub(crate) async fn record_standing(&self, new: NewStanding) -> Result<(), StoreError> {
        self.transaction("record where a point stands", move |connection| {
            Box::pin(async move {
                let (deleted_at, purge_after) = match new.state {
                    NewPointState::SoftDeleted { at, purge_after } => (Some(at), Some(purge_after)),
                    NewPointState::Kept | NewPointState::Purged => (None, None),
                };
                let undeletions = new.events.iter().filter(|event| event.action == UNDELETE);
                let undeletion = undeletions.map(|event| event.number).max().unwrap_or(0);
                let updated: Option<(Uuid, i32)> = sqlx::query_as(
                    "WITH before AS (SELECT id, decisions FROM points
                                     WHERE machine_id = $1 AND seq = $2 AND decisions < $3 FOR UPDATE)
                     UPDATE points SET decisions = $3, deleted_at = $5, purge_after = $6, lock_mode = $7, locked_until = $8,
                         state = CASE WHEN $4 = 'listed' AND damage IS NOT NULL THEN 'damaged' ELSE $4 END,
                         undeleted_at = CASE WHEN $4 = 'listed' AND $9 > before.decisions THEN now() ELSE undeleted_at END
                     FROM before WHERE points.id = before.id RETURNING points.id, before.decisions",
                )
                .bind(new.machine.0)
                .bind(new.seq)
                .bind(new.decisions)
                .bind(new.state.state().as_str())
                .bind(deleted_at)
                .bind(purge_after)
                .bind(new.lock.map(|(mode, _)| mode.as_str()))
                .bind(new.lock.map(|(_, until)| until))
                .bind(undeletion)
                .fetch_optional(&mut *connection)
                .await
                .during("record where a point stands")?;
                let Some((id, known)) = updated else { return Ok(()) };
                for event in new.events.into_iter().filter(|event| event.number > known) {
                    audit::record(connection, &event.actor, event.action, &id.to_string(), event.detail).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Machine and sequence number of the points under lock of which the storage is not known to retain all, as strictly and as long as
    /// the lock calls for.
    pub(crate) async fn unenforced_locks(&self) -> Result<Vec<(Uuid, i64)>, StoreError> {
        sqlx::query_as(
            "SELECT machine_id, seq FROM points
             WHERE locked_until > now() AND state <> 'purged'
               AND (retained_until IS NULL OR retained_until < locked_until
                    OR (retained_mode = 'governance' AND lock_mode = 'compliance'))
             ORDER BY machine_id, seq",
        )
        .fetch_all(&self.pool)
        .await
        .during("list the locks that are not enforced")
    }

    /// Records what the storage retains of all that a point needs. Idempotent.
    pub(crate) async fn record_retention(
        &self,
        machine: MachineId,
        seq: i64,
        (mode, until): (LockMode, DateTime<Utc>),
    ) -> Result<(), StoreError> {
        let mode = mode.as_str();
        self.transaction("record what is retained of a point", move |connection| {
            Box::pin(async move {
                let updated: Option<(Uuid,)> = sqlx::query_as(
                    "UPDATE points SET retained_mode = $3, retained_until = $4
                     WHERE machine_id = $1 AND seq = $2 AND (retained_mode, retained_until) IS DISTINCT FROM ($3, $4)
                     RETURNING id",
                )
                .bind(machine.0)
                .bind(seq)
                .bind(mode)
                .bind(until)
                .fetch_optional(&mut *connection)
                .await
                .during("record what is retained of a point")?;
                let Some((id,)) = updated else { return Ok(()) };
                let detail = json!({ "mode": mode, "until": until });
                audit::record(connection, "gateway", "point.retain", &id.to_string(), detail).await
            })
        })
        .await
    }
}
