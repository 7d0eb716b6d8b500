//! The commit of a transfer, as far as the catalogue is concerned: it begins, and then it is recorded or aborted. What happened
//! in between only the vault knows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use tracing::error;
use uuid::Uuid;

use holdfast_proto::ids::{MachineId, PointId, StepId};

use crate::domain::job::Consistency;

use super::attempt::{AttemptEnd, AttemptKey, end_attempt, noted_end};
use super::point::PointDiskRow;
use super::slot::LockedSlot;
use super::{During, Store, StoreError, audit};

/// What a commit is about, by sequence numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewCommit {
    pub(crate) seq: i64,
    /// The point that it builds upon.
    pub(crate) base: Option<i64>,
}

/// Whether a commit began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    Yes,
    /// What is damaged in the base the new point would need, too.
    BaseDamaged,
}

/// A point object of the vault, to be indexed.
#[derive(Clone, Debug)]
pub(crate) struct NewPoint {
    pub(crate) id: PointId,
    pub(crate) machine: MachineId,
    pub(crate) seq: i64,
    pub(crate) hash: [u8; 32],
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) consistency: Consistency,
    pub(crate) step: StepId,
    pub(crate) attempt: i64,
    pub(crate) disks: Vec<PointDiskRow>,
}

/// A commit that began and whose outcome is not recorded, long enough ago that its gateway may be dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnsettledCommitRow {
    pub(crate) machine: MachineId,
    pub(crate) step: StepId,
    pub(crate) attempt: i64,
    pub(crate) seq: i64,
}

impl Store {
    /// Marks the point of no return of an attempt: from now on a cancel is too late, and only the vault says what became of
    /// `seq`. The lease lets the resolver wait for a living gateway.
    pub(crate) async fn begin_commit(
        &self,
        step: StepId,
        attempt: i64,
        NewCommit { seq, base }: NewCommit,
        lease: Duration,
    ) -> Result<Begun, StoreError> {
        self.transaction("begin a commit", move |connection| {
            Box::pin(async move {
                let Some(slot) = LockedSlot::of_step(connection, step).await? else {
                    return Err(StoreError::NotFound { noun: "step", name: step.to_string() });
                };
                if let Some(base) = base
                    && is_damaged(connection, &slot, base).await?
                {
                    return Ok(Begun::BaseDamaged);
                }
                let updated = sqlx::query(
                    "UPDATE steps SET committing_seq = $3, committing_base = $5, lease_until = now() + $4::interval
                     FROM jobs j
                     WHERE steps.id = $1 AND steps.attempt = $2 AND steps.state IN ('dispatched', 'running')
                       AND (committing_seq IS NULL OR committing_seq <= $3)
                       AND j.id = steps.job_id AND j.cancel_requested_at IS NULL",
                )
                .bind(step.0)
                .bind(attempt)
                .bind(seq)
                .bind(lease)
                .bind(base)
                .execute(&mut *connection)
                .await
                .during("begin a commit")?;
                if updated.rows_affected() == 1 {
                    return Ok(Begun::Yes);
                }
                let cancelling: Option<(bool,)> = sqlx::query_as(
                    "SELECT j.cancel_requested_at IS NOT NULL FROM steps s JOIN jobs j ON j.id = s.job_id
                     WHERE s.id = $1 AND s.attempt = $2 AND s.state IN ('dispatched', 'running')",
                )
                .bind(step.0)
                .bind(attempt)
                .fetch_optional(connection)
                .await
                .during("see why a commit is refused")?;
                Err(match cancelling {
                    Some((true,)) => StoreError::Cancelling,
                    _ => StoreError::StaleAttempt { attempt },
                })
            })
        })
        .await
    }

    /// Indexes a point of the vault; the transfer that made it is done with it. If its base was found damaged since its commit began,
    /// it is damaged as well until a verification has read it: whoever looked for what else is damaged did not see it. Idempotent.
    pub(crate) async fn record_point(
        &self,
        point: NewPoint,
        retry_delay: Duration,
    ) -> Result<(), StoreError> {
        self.transaction("record a point", move |connection| {
            Box::pin(async move {
                let slot = LockedSlot::of_machine(connection, point.machine).await?;
                let stored: u64 = point.disks.iter().map(|disk| disk.stored_bytes).sum();
                let inserted: Option<(Option<String>,)> =
                    sqlx::query_as(include_str!("sql/record_point.sql"))
                        .bind(point.id.0)
                        .bind(point.machine.0)
                        .bind(point.seq)
                        .bind(point.hash.as_slice())
                        .bind(point.created_at)
                        .bind(point.consistency.as_str())
                        .bind(Json(&point.disks))
                        .bind(i64::try_from(stored).unwrap_or(i64::MAX))
                        .bind(point.step.0)
                        .bind(point.attempt)
                        .fetch_optional(&mut *connection)
                        .await
                        .during("insert a point")?;
                if let Some((damage,)) = inserted {
                    let detail = json!({ "machine": point.machine.to_string(), "seq": point.seq,
                        "step": point.step.to_string(), "attempt": point.attempt });
                    audit::record(connection, "gateway", "point.create", &point.id.to_string(), detail)
                        .await?;
                    if let Some(reason) = damage {
                        error!(machine = %point.machine, point = %point.id, reason, "a point is damaged");
                        let detail = json!({ "reason": reason });
                        audit::record(connection, "gateway", "point.damaged", &point.id.to_string(), detail)
                            .await?;
                    }
                }
                // The point stands whatever has become of the step: one that another attempt took over just goes on.
                if slot.covers(connection, point.step).await? {
                    let key = AttemptKey { step: point.step, attempt: point.attempt, machine: None };
                    let end = AttemptEnd::Transferred { point: point.id.0 };
                    end_attempt(connection, &slot, key, end, retry_delay).await?;
                    finish_progress(connection, &point).await?;
                }
                Ok(())
            })
        })
        .await
    }

    pub(crate) async fn unsettled_commits(&self) -> Result<Vec<UnsettledCommitRow>, StoreError> {
        let rows: Vec<(Uuid, Uuid, i64, i64)> = sqlx::query_as(
            "SELECT j.machine_id, s.id, s.attempt, s.committing_seq FROM steps s JOIN jobs j ON j.id = s.job_id
             WHERE s.state IN ('dispatched', 'running') AND s.committing_seq IS NOT NULL AND s.lease_until < now()
             ORDER BY s.lease_until LIMIT 500",
        )
        .fetch_all(&self.pool)
        .await
        .during("find unsettled commits")?;
        Ok(rows
            .into_iter()
            .map(|(machine, step, attempt, seq)| UnsettledCommitRow {
                machine: MachineId(machine),
                step: StepId(step),
                attempt,
                seq,
            })
            .collect())
    }

    /// The vault holds an abort where this commit's point would have been. If it was said meanwhile how the attempt ended, that is how
    /// it did. Otherwise it may be at work on its next commit: it has a lease again like any other, and if nobody renews it, it ends
    /// by that.
    pub(crate) async fn commit_aborted(
        &self,
        step: StepId,
        attempt: i64,
        seq: i64,
        lease: Duration,
        retry_delay: Duration,
    ) -> Result<(), StoreError> {
        self.transaction("settle an aborted commit", move |connection| {
            Box::pin(async move {
                let Some(slot) = LockedSlot::of_step(connection, step).await? else { return Ok(()) };
                let settled = sqlx::query(
                    "UPDATE steps SET committing_seq = NULL, committing_base = NULL, lease_until = now() + $4::interval
                     WHERE id = $1 AND attempt = $2 AND committing_seq = $3 AND state IN ('dispatched', 'running')",
                )
                .bind(step.0)
                .bind(attempt)
                .bind(seq)
                .bind(lease)
                .execute(&mut *connection)
                .await
                .during("settle an aborted commit")?;
                if settled.rows_affected() == 0 {
                    return Ok(());
                }
                if let Some(end) = noted_end(connection, step, attempt).await? {
                    let key = AttemptKey { step, attempt, machine: None };
                    end_attempt(connection, &slot, key, end, retry_delay).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

async fn is_damaged(connection: &mut PgConnection, slot: &LockedSlot, seq: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM points WHERE machine_id = $1 AND seq = $2 AND damage IS NOT NULL)",
    )
    .bind(slot.machine.0)
    .bind(seq)
    .fetch_one(connection)
    .await
    .during("see whether a point is damaged")
}

/// The last word on a transfer's progress is what its point says: a short one may never have reported any.
async fn finish_progress(connection: &mut PgConnection, point: &NewPoint) -> Result<(), StoreError> {
    let sum = |read: fn(&PointDiskRow) -> u64| {
        i64::try_from(point.disks.iter().map(read).sum::<u64>()).unwrap_or(i64::MAX)
    };
    sqlx::query(
        "UPDATE steps SET total_bytes = $3, read_bytes = $3, changed_bytes = $4, sent_bytes = $5
         WHERE id = $1 AND attempt = $2 AND state = 'done'",
    )
    .bind(point.step.0)
    .bind(point.attempt)
    .bind(sum(|disk| disk.size_bytes))
    .bind(sum(|disk| disk.changed_bytes))
    .bind(sum(|disk| disk.sent_bytes))
    .execute(connection)
    .await
    .during("finish a transfer's progress")?;
    Ok(())
}
