use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, MachineId, SnapshotId, StepId};

use crate::domain::error::JobError;
use crate::domain::job::{Consistency, StepKind, StepState};
use crate::domain::snapshot::DiskRow;

use super::{During, Store, StoreError};

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
    /// Sequence numbers of points that are known to be damaged.
    pub(crate) damaged: Vec<i64>,
}

#[derive(sqlx::FromRow)]
struct TransferRow {
    agent_id: Uuid,
    kind: StepKind,
    state: StepState,
    attempt: i64,
    machine_id: Uuid,
    machine_name: String,
    quarantine: Option<String>,
    consistency: Option<Consistency>,
    snapshot_taken_at: Option<DateTime<Utc>>,
    snapshot_id: Option<Uuid>,
    snapshot_disks: Option<Json<Vec<DiskRow>>>,
    last_seq: i64,
    damaged: Vec<i64>,
}

impl Store {
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
        if let Some(reason) = row.quarantine {
            return Err(StoreError::MachineQuarantined { reason });
        }
        let current = row.attempt == attempt && (row.state.is_out() || row.state == StepState::Done);
        let (Some(consistency), Some(taken_at), Some(snapshot), Some(disks)) =
            (row.consistency, row.snapshot_taken_at, row.snapshot_id, row.snapshot_disks)
        else {
            return Err(StoreError::StaleAttempt { attempt });
        };
        if !current || row.kind != StepKind::TransferData {
            return Err(StoreError::StaleAttempt { attempt });
        }
        Ok(TransferContext {
            machine: MachineId(row.machine_id),
            machine_name: row.machine_name,
            consistency,
            taken_at,
            snapshot: SnapshotId(snapshot),
            disks: disks.0,
            last_seq: row.last_seq,
            damaged: row.damaged,
        })
    }

    /// Adds a warning to a step's job: it ends with that. Idempotent.
    pub(crate) async fn warn_job(&self, step: StepId, warning: JobError) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE jobs SET warning = CASE
                 WHEN jobs.warning IS NULL THEN $2
                 WHEN strpos(jobs.warning->>'message', $3) > 0 THEN jobs.warning
                 ELSE jsonb_set(jobs.warning, '{message}', to_jsonb((jobs.warning->>'message') || '; ' || $3)) END
             FROM steps WHERE steps.id = $1 AND jobs.id = steps.job_id",
        )
        .bind(step.0)
        .bind(Json(&warning))
        .bind(&warning.message)
        .execute(&self.pool)
        .await
        .during("add a warning to a job")?;
        Ok(())
    }
}
