//! What becomes of an attempt of a step. What follows for its job is decided by `domain::backup` and carried out by
//! `advance`.

mod history;

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{JobId, MachineId, StepId};

use crate::domain::backup::{EndedStep, StepOutcome, after_step};
use crate::domain::error::JobError;
use crate::domain::job::{StepKind, StepState};
use crate::domain::snapshot::TakenSnapshot;

use super::advance::{JobToAdvance, advance};
use super::slot::LockedSlot;
use super::{During, Store, StoreError};

pub(super) use history::noted_end;
use history::{note_end, record_attempt};

/// How an attempt ended, with what has to be kept of it.
#[derive(Clone, Debug)]
pub(crate) enum AttemptEnd {
    SnapshotTaken(TakenSnapshot),
    /// The agent says that the gateway committed this point.
    Transferred {
        point: Uuid,
    },
    Released,
    Failed(JobError),
    Cancelled,
    Lost,
}

/// An attempt, and who says so: a report of an agent counts only for its own machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptKey {
    pub(crate) step: StepId,
    pub(crate) attempt: i64,
    pub(crate) machine: Option<MachineId>,
}

/// Whether a report was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Now or earlier.
    Yes,
    /// The attempt is not current any more.
    Stale,
}

#[derive(sqlx::FromRow)]
struct StepForUpdate {
    id: Uuid,
    job_id: Uuid,
    kind: StepKind,
    state: StepState,
    attempt: i64,
    tries: i32,
    committing_seq: Option<i64>,
}

impl Store {
    /// Records the end of an attempt and all that follows from it, in one transaction.
    pub(crate) async fn end_attempt(
        &self,
        key: AttemptKey,
        end: AttemptEnd,
        retry_delay: Duration,
    ) -> Result<Recorded, StoreError> {
        self.transaction("end an attempt", move |connection| {
            Box::pin(async move {
                match LockedSlot::of_step(connection, key.step).await? {
                    Some(slot) => end_attempt(connection, &slot, key, end, retry_delay).await,
                    None => Ok(Recorded::Stale),
                }
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

    /// The attempts of a machine that are out, by the database.
    pub(crate) async fn attempts_out(&self, machine: MachineId) -> Result<Vec<(StepId, i64)>, StoreError> {
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT s.id, s.attempt FROM steps s JOIN jobs j ON j.id = s.job_id
             WHERE j.machine_id = $1 AND s.state IN ('dispatched', 'running')",
        )
        .bind(machine.0)
        .fetch_all(&self.pool)
        .await
        .during("list the attempts that are out")?;
        Ok(rows.into_iter().map(|(step, attempt)| (StepId(step), attempt)).collect())
    }
}

/// See [`Store::end_attempt`]; `slot` is that of the step's machine.
pub(super) async fn end_attempt(
    connection: &mut PgConnection,
    slot: &LockedSlot,
    key: AttemptKey,
    end: AttemptEnd,
    retry_delay: Duration,
) -> Result<Recorded, StoreError> {
    if key.machine.is_some_and(|claimed| claimed != slot.machine) {
        return Err(StoreError::ForeignStep);
    }
    let step = load_step(connection, key.step).await?;
    if step.attempt != key.attempt {
        return Ok(Recorded::Stale);
    }
    let (kind, state) = (step.kind, step.state);
    if !state.is_out() {
        let repeated = match end {
            AttemptEnd::SnapshotTaken(_) | AttemptEnd::Transferred { .. } | AttemptEnd::Released => {
                state == StepState::Done
            }
            AttemptEnd::Failed(_) | AttemptEnd::Cancelled => {
                matches!(state, StepState::Failed | StepState::Done)
            }
            AttemptEnd::Lost => true,
        };
        return Ok(if repeated { Recorded::Yes } else { Recorded::Stale });
    }
    let confirmed = matches!(end, AttemptEnd::Transferred { .. });
    if step.committing_seq.is_some() && !confirmed {
        // The point may exist. The resolver asks the vault as soon as the lease is over, which is now; if there is no point, this is
        // how the attempt ended.
        note_end(connection, &step, end).await?;
        sqlx::query("UPDATE steps SET lease_until = now() WHERE id = $1")
            .bind(step.id)
            .execute(&mut *connection)
            .await
            .during("end the lease of a commit")?;
        return Ok(Recorded::Yes);
    }
    let outcome = keep(connection, &step, kind, end).await?;
    let job = JobToAdvance::load(connection, JobId(step.job_id)).await?;
    record_attempt(connection, &step, &outcome).await?;
    let next = after_step(&job.view(), step.ended(), outcome);
    advance(connection, slot, &job, step.id, next, retry_delay).await?;
    Ok(Recorded::Yes)
}

/// Ends a running job with whatever of it nobody runs, for this reason. Refused while an attempt is out.
pub(super) async fn give_up_job(
    connection: &mut PgConnection,
    slot: &LockedSlot,
    job: JobId,
    why: &JobError,
) -> Result<(), StoreError> {
    loop {
        let row = JobToAdvance::load(connection, job).await?;
        if row.state.is_terminal() {
            return Ok(());
        }
        let current: Option<StepForUpdate> = sqlx::query_as(
            "SELECT id, job_id, kind, state, attempt, tries, committing_seq FROM steps
             WHERE job_id = $1 AND (state IN ('dispatched', 'running') OR (state = 'pending' AND ready_at IS NOT NULL))
             ORDER BY state = 'pending' LIMIT 1",
        )
        .bind(job.0)
        .fetch_optional(&mut *connection)
        .await
        .during("find the step to give up")?;
        let Some(step) = current.filter(|step| step.state == StepState::Pending) else {
            return Err(StoreError::MachineBusy { job: job.0 });
        };
        let next = after_step(&row.view(), step.ended(), StepOutcome::GivenUp(why.clone()));
        advance(connection, slot, &row, step.id, next, Duration::ZERO).await?;
    }
}

/// Stores what a successful attempt brought, and turns it into the outcome to decide on.
async fn keep(
    connection: &mut PgConnection,
    step: &StepForUpdate,
    kind: StepKind,
    end: AttemptEnd,
) -> Result<StepOutcome, StoreError> {
    Ok(match (kind, end) {
        (StepKind::TakeSnapshot, AttemptEnd::SnapshotTaken(snapshot)) => {
            let warning = snapshot.warning_beside(&disks_of_last_point(connection, step.job_id).await?);
            sqlx::query(
                "UPDATE jobs SET snapshot_id = $2, snapshot_taken_at = $3, consistency = $4, snapshot_disks = $5, warning = $6
                 WHERE id = $1",
            )
            .bind(step.job_id)
            .bind(snapshot.id)
            .bind(snapshot.taken_at)
            .bind(snapshot.consistency.as_str())
            .bind(Json(&snapshot.disks))
            .bind(warning.map(Json))
            .execute(connection)
            .await
            .during("keep a snapshot")?;
            StepOutcome::Done
        }
        (StepKind::TransferData, AttemptEnd::Transferred { point }) => {
            let updated = sqlx::query(
                "UPDATE jobs SET point_id = $2 WHERE id = $1
                 AND EXISTS (SELECT 1 FROM points p WHERE p.id = $2 AND p.step_id = $3 AND p.attempt = $4)",
            )
            .bind(step.job_id)
            .bind(point)
            .bind(step.id)
            .bind(step.attempt)
            .execute(connection)
            .await
            .during("give a job its point")?;
            if updated.rows_affected() == 1 {
                StepOutcome::Done
            } else {
                StepOutcome::Failed(JobError::unconfirmed_point())
            }
        }
        (StepKind::ReleaseSnapshot, AttemptEnd::Released) => StepOutcome::Done,
        (_, AttemptEnd::Failed(error)) => StepOutcome::Failed(error),
        (_, AttemptEnd::Cancelled) => StepOutcome::Cancelled,
        (_, AttemptEnd::Lost) => StepOutcome::Lost,
        (_, AttemptEnd::SnapshotTaken(_) | AttemptEnd::Transferred { .. } | AttemptEnd::Released) => {
            StepOutcome::Failed(JobError::wrong_report())
        }
    })
}

/// What the machine's newest point of all disks has, if the job wants all disks too. Of a point whose job is forgotten it is
/// taken to be one of those.
async fn disks_of_last_point(connection: &mut PgConnection, job: Uuid) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT disk ->> 'name' FROM (
           SELECT p.disks FROM jobs this JOIN points p USING (machine_id)
             LEFT JOIN steps s ON s.id = p.step_id LEFT JOIN jobs j ON j.id = s.job_id
           WHERE this.id = $1 AND this.disk_names = '{}' AND p.state IN ('listed', 'damaged')
             AND coalesce(j.disk_names, '{}') = '{}'
           ORDER BY p.seq DESC LIMIT 1) last, jsonb_array_elements(last.disks) disk
         ORDER BY 1",
    )
    .bind(job)
    .fetch_all(connection)
    .await
    .during("read what the last point has")?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

async fn load_step(connection: &mut PgConnection, step: StepId) -> Result<StepForUpdate, StoreError> {
    sqlx::query_as("SELECT id, job_id, kind, state, attempt, tries, committing_seq FROM steps WHERE id = $1")
        .bind(step.0)
        .fetch_one(connection)
        .await
        .during("read a step")
}

impl StepForUpdate {
    fn ended(&self) -> EndedStep {
        EndedStep { kind: self.kind, tries: self.tries }
    }
}
