use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, MachineId, PointId, SnapshotId, StepId};

use crate::domain::job::Consistency;
use crate::domain::snapshot::DiskRow;

use super::attempt::{AttemptEnd, AttemptKey, end_attempt, lock_slot, machine_of_step};
use super::page::{Page, PageSize, time_key};
use super::{During, Store, StoreError, audit};

#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct PointRow {
    pub(crate) id: Uuid,
    pub(crate) machine_id: Uuid,
    pub(crate) machine_name: String,
    pub(crate) seq: i64,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) consistency: String,
    pub(crate) state: String,
    pub(crate) disks: Json<Vec<PointDiskRow>>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct PointDiskRow {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) stored_bytes: u64,
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

/// What a transfer needs to know of its job.
#[derive(Clone, Debug)]
pub(crate) struct TransferContext {
    pub(crate) machine: MachineId,
    pub(crate) machine_name: String,
    pub(crate) consistency: Consistency,
    pub(crate) taken_at: DateTime<Utc>,
    pub(crate) snapshot: SnapshotId,
    pub(crate) disks: Vec<DiskRow>,
    pub(crate) last_seq: i64,
}

#[derive(sqlx::FromRow)]
struct TransferRow {
    agent_id: Uuid,
    kind: String,
    state: String,
    attempt: i64,
    machine_id: Uuid,
    machine_name: String,
    consistency: Option<String>,
    snapshot_taken_at: Option<DateTime<Utc>>,
    snapshot_id: Option<Uuid>,
    snapshot_disks: Option<Json<Vec<DiskRow>>>,
    last_seq: i64,
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
    /// Lists points, newest first.
    pub(crate) async fn list_points(
        &self,
        machine: Option<Uuid>,
        before: Option<(DateTime<Utc>, Uuid)>,
        size: PageSize,
    ) -> Result<Page<PointRow>, StoreError> {
        let rows = sqlx::query_as(include_str!("sql/list_points.sql"))
            .bind(machine)
            .bind(before.map(|(at, _)| at))
            .bind(before.map(|(_, id)| id))
            .bind(size.limit())
            .fetch_all(&self.pool)
            .await
            .during("list points")?;
        Ok(size.page(rows, |row: &PointRow| time_key(row.created_at, row.id)))
    }

    pub(crate) async fn find_point(&self, point: PointId) -> Result<PointRow, StoreError> {
        sqlx::query_as(include_str!("sql/find_point.sql"))
            .bind(point.0)
            .fetch_optional(&self.pool)
            .await
            .during("find a point")?
            .ok_or_else(|| StoreError::NotFound { noun: "point", name: point.to_string() })
    }

    /// Indexes a point of the vault; the transfer that made it is done with it. Idempotent.
    pub(crate) async fn record_point(
        &self,
        point: NewPoint,
        retry_delay: Duration,
    ) -> Result<(), StoreError> {
        self.transaction("record a point", move |connection| {
            Box::pin(async move {
                lock_slot(connection, point.machine.0).await?;
                let stored: u64 = point.disks.iter().map(|disk| disk.stored_bytes).sum();
                let inserted = sqlx::query(
                    "INSERT INTO points (id, machine_id, seq, hash, created_at, consistency, state, disks, stored_bytes)
                     VALUES ($1, $2, $3, $4, $5, $6, 'listed', $7, $8) ON CONFLICT (id) DO NOTHING",
                )
                .bind(point.id.0)
                .bind(point.machine.0)
                .bind(point.seq)
                .bind(point.hash.as_slice())
                .bind(point.created_at)
                .bind(point.consistency.as_str())
                .bind(Json(&point.disks))
                .bind(i64::try_from(stored).unwrap_or(i64::MAX))
                .execute(&mut *connection)
                .await
                .during("insert a point")?;
                if inserted.rows_affected() == 1 {
                    let detail = json!({ "machine": point.machine.to_string(), "seq": point.seq,
                        "step": point.step.to_string(), "attempt": point.attempt });
                    audit::record(connection, "gateway", "point.create", &point.id.to_string(), detail).await?;
                }
                // The point stands whatever has become of the step: one that another attempt took over just goes on.
                if let Some((machine,)) = machine_of_step(connection, point.step).await?
                    && machine == point.machine.0
                {
                    let key = AttemptKey { step: point.step, attempt: point.attempt, machine: None };
                    end_attempt(connection, key, AttemptEnd::Transferred { point: point.id.0 }, retry_delay).await?;
                    finish_progress(connection, &point).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Checks that this agent may send data for this attempt now.
    pub(crate) async fn authorise_transfer(
        &self,
        agent: AgentId,
        step: StepId,
        attempt: i64,
    ) -> Result<TransferContext, StoreError> {
        let row: Option<TransferRow> = sqlx::query_as(include_str!("sql/transfer_context.sql"))
            .bind(step.0)
            .fetch_optional(&self.pool)
            .await
            .during("authorise a transfer")?;
        let row = row.ok_or_else(|| StoreError::NotFound { noun: "step", name: step.to_string() })?;
        if row.agent_id != agent.0 {
            return Err(StoreError::ForeignStep);
        }
        let current =
            row.attempt == attempt && matches!(row.state.as_str(), "dispatched" | "running" | "done");
        let (Some(consistency), Some(taken_at), Some(snapshot), Some(disks)) =
            (row.consistency, row.snapshot_taken_at, row.snapshot_id, row.snapshot_disks)
        else {
            return Err(StoreError::StaleAttempt { attempt });
        };
        if !current || row.kind != "transfer_data" {
            return Err(StoreError::StaleAttempt { attempt });
        }
        Ok(TransferContext {
            machine: MachineId(row.machine_id),
            machine_name: row.machine_name,
            consistency: Consistency::parse(&consistency)
                .ok_or_else(|| StoreError::Corrupt { what: format!("consistency {consistency:?}") })?,
            taken_at,
            snapshot: SnapshotId(snapshot),
            disks: disks.0,
            last_seq: row.last_seq,
        })
    }

    /// Marks the point of no return of an attempt: from now on a cancel is too late, and only the vault says what became of
    /// `seq`. The lease lets the resolver wait for a living gateway.
    pub(crate) async fn begin_commit(
        &self,
        step: StepId,
        attempt: i64,
        seq: i64,
        lease: Duration,
    ) -> Result<(), StoreError> {
        self.transaction("begin a commit", move |connection| {
            Box::pin(async move {
                let Some((machine,)) = machine_of_step(connection, step).await? else {
                    return Err(StoreError::NotFound { noun: "step", name: step.to_string() });
                };
                lock_slot(connection, machine).await?;
                let updated = sqlx::query(
                    "UPDATE steps SET committing_seq = $3, lease_until = now() + $4::interval
                     FROM jobs j
                     WHERE steps.id = $1 AND steps.attempt = $2 AND steps.state IN ('dispatched', 'running')
                       AND (committing_seq IS NULL OR committing_seq <= $3)
                       AND j.id = steps.job_id AND j.cancel_requested_at IS NULL",
                )
                .bind(step.0)
                .bind(attempt)
                .bind(seq)
                .bind(lease)
                .execute(&mut *connection)
                .await
                .during("begin a commit")?;
                if updated.rows_affected() == 1 {
                    return Ok(());
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

    /// Whether this attempt is the current one.
    pub(crate) async fn is_live(&self, step: StepId, attempt: i64) -> Result<bool, StoreError> {
        let row: Option<(i32,)> = sqlx::query_as(
            "SELECT 1 FROM steps WHERE id = $1 AND attempt = $2 AND state IN ('dispatched', 'running')",
        )
        .bind(step.0)
        .bind(attempt)
        .fetch_optional(&self.pool)
        .await
        .during("look at an attempt")?;
        Ok(row.is_some())
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

    /// The vault holds an abort where this commit's point would have been. The attempt may be at work on its next commit: it
    /// has a lease again like any other, and if nobody renews it, it ends by that.
    pub(crate) async fn commit_aborted(
        &self,
        step: StepId,
        attempt: i64,
        seq: i64,
        lease: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE steps SET committing_seq = NULL, lease_until = now() + $4::interval
             WHERE id = $1 AND attempt = $2 AND committing_seq = $3 AND state IN ('dispatched', 'running')",
        )
        .bind(step.0)
        .bind(attempt)
        .bind(seq)
        .bind(lease)
        .execute(&self.pool)
        .await
        .during("settle an aborted commit")?;
        Ok(())
    }

    pub(crate) async fn known_seqs(&self, machine: MachineId) -> Result<Vec<i64>, StoreError> {
        let rows: Vec<(i64,)> = sqlx::query_as("SELECT seq FROM points WHERE machine_id = $1 ORDER BY seq")
            .bind(machine.0)
            .fetch_all(&self.pool)
            .await
            .during("list a machine's points")?;
        Ok(rows.into_iter().map(|(seq,)| seq).collect())
    }

    /// The newest point of a machine that restores.
    pub(crate) async fn latest_point(&self, machine: Uuid) -> Result<Option<PointId>, StoreError> {
        let row: Option<(Uuid,)> = sqlx::query_as(
            "SELECT id FROM points WHERE machine_id = $1 AND state = 'listed' ORDER BY created_at DESC, id DESC LIMIT 1",
        )
        .bind(machine)
        .fetch_optional(&self.pool)
        .await
        .during("find the latest point")?;
        Ok(row.map(|(id,)| PointId(id)))
    }

    pub(crate) async fn mark_damaged(&self, point: PointId, reason: &str) -> Result<(), StoreError> {
        let reason = reason.to_owned();
        self.transaction("mark a point damaged", move |connection| {
            Box::pin(async move {
                let updated = sqlx::query(
                    "UPDATE points SET state = 'damaged', damage = $2 WHERE id = $1 AND state = 'listed'",
                )
                .bind(point.0)
                .bind(&reason)
                .execute(&mut *connection)
                .await
                .during("mark a point damaged")?;
                if updated.rows_affected() == 1 {
                    let detail = json!({ "reason": reason });
                    audit::record(connection, "gateway", "point.damaged", &point.to_string(), detail).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Written before the first byte of a restore.
    pub(crate) async fn record_restore(
        &self,
        operator: &str,
        point: PointId,
        disk: &str,
    ) -> Result<(), StoreError> {
        let (operator, disk) = (operator.to_owned(), disk.to_owned());
        self.transaction("record a restore", move |connection| {
            Box::pin(async move {
                audit::record(
                    connection,
                    &operator,
                    "point.restore",
                    &point.to_string(),
                    json!({ "disk": disk }),
                )
                .await
            })
        })
        .await
    }
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
