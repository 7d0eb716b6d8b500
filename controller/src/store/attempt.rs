//! What becomes of an attempt of a step, and of its job with it. Each change locks the machine's slot row first, so all
//! changes to one machine's jobs happen one after the other.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{JobId, MachineId, StepId};

use crate::domain::backup::{EndedStep, JobView, Next, StepOutcome, after_step};
use crate::domain::error::JobError;
use crate::domain::job::{JobState, StepKind, StepState};
use crate::domain::snapshot::TakenSnapshot;

use super::{During, Store, StoreError};

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

/// A job as the decisions need it, read under the slot lock.
#[derive(Debug)]
pub(super) struct JobRowForUpdate {
    pub(super) id: JobId,
    pub(super) machine: Uuid,
    pub(super) state: JobState,
    pub(super) cancel_requested: bool,
    round: i32,
    has_snapshot: bool,
    has_point: bool,
    error: Option<JobError>,
    warning: Option<JobError>,
}

#[derive(sqlx::FromRow)]
struct StepForUpdate {
    id: Uuid,
    job_id: Uuid,
    kind: String,
    state: String,
    attempt: i64,
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
            Box::pin(async move { end_attempt(connection, key, end, retry_delay).await })
        })
        .await
    }

    /// Ends a step of a running job for good although nobody runs it: its agent has been away for too long.
    pub(crate) async fn give_up_step(&self, step: StepId, retry_delay: Duration) -> Result<(), StoreError> {
        self.transaction("give a step up", move |connection| {
            Box::pin(async move {
                let Some((machine,)) = machine_of_step(connection, step).await? else { return Ok(()) };
                lock_slot(connection, machine).await?;
                let row = load_step(connection, step).await?;
                if row.state()? != StepState::Pending {
                    return Ok(());
                }
                let job = JobRowForUpdate::load(connection, JobId(row.job_id)).await?;
                let ended = EndedStep { kind: row.kind()?, attempt: i64::MAX };
                let next = after_step(&job.view(), ended, StepOutcome::Failed(JobError::agent_lost()));
                apply(connection, &job, row.id, next, retry_delay).await
            })
        })
        .await
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

pub(super) async fn end_attempt(
    connection: &mut PgConnection,
    key: AttemptKey,
    end: AttemptEnd,
    retry_delay: Duration,
) -> Result<Recorded, StoreError> {
    let Some((machine,)) = machine_of_step(connection, key.step).await? else { return Ok(Recorded::Stale) };
    if key.machine.is_some_and(|claimed| claimed.0 != machine) {
        return Err(StoreError::ForeignStep);
    }
    lock_slot(connection, machine).await?;
    let step = load_step(connection, key.step).await?;
    if step.attempt != key.attempt {
        return Ok(Recorded::Stale);
    }
    let (kind, state) = (step.kind()?, step.state()?);
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
        // The point may exist. The resolver asks the vault as soon as the lease is over, which is now.
        sqlx::query("UPDATE steps SET lease_until = now() WHERE id = $1")
            .bind(step.id)
            .execute(&mut *connection)
            .await
            .during("end the lease of a commit")?;
        return Ok(Recorded::Yes);
    }
    let outcome = keep(connection, &step, kind, end).await?;
    let job = JobRowForUpdate::load(connection, JobId(step.job_id)).await?;
    record_attempt(connection, &step, &outcome).await?;
    let next = after_step(&job.view(), EndedStep { kind, attempt: step.attempt }, outcome);
    apply(connection, &job, step.id, next, retry_delay).await?;
    Ok(Recorded::Yes)
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
            sqlx::query(
                "UPDATE jobs SET snapshot_id = $2, snapshot_taken_at = $3, consistency = $4, snapshot_disks = $5, warning = $6
                 WHERE id = $1",
            )
            .bind(step.job_id)
            .bind(snapshot.id)
            .bind(snapshot.taken_at)
            .bind(snapshot.consistency.as_str())
            .bind(Json(&snapshot.disks))
            .bind(snapshot.warning.as_ref().map(Json))
            .execute(connection)
            .await
            .during("keep a snapshot")?;
            StepOutcome::Done
        }
        (StepKind::TransferData, AttemptEnd::Transferred { point }) => {
            let updated = sqlx::query(
                "UPDATE jobs SET point_id = $2 WHERE id = $1
                 AND EXISTS (SELECT 1 FROM points p WHERE p.id = $2 AND p.machine_id = jobs.machine_id)",
            )
            .bind(step.job_id)
            .bind(point)
            .execute(connection)
            .await
            .during("give a job its point")?;
            if updated.rows_affected() == 1 { StepOutcome::Done } else { StepOutcome::Failed(unconfirmed()) }
        }
        (StepKind::ReleaseSnapshot, AttemptEnd::Released) => StepOutcome::Done,
        (_, AttemptEnd::Failed(error)) => StepOutcome::Failed(error),
        (_, AttemptEnd::Cancelled) => StepOutcome::Cancelled,
        (_, AttemptEnd::Lost) => StepOutcome::Lost,
        (_, AttemptEnd::SnapshotTaken(_) | AttemptEnd::Transferred { .. } | AttemptEnd::Released) => {
            StepOutcome::Failed(wrong_report())
        }
    })
}

/// Carries a decision out. The slot must be locked.
pub(super) async fn apply(
    connection: &mut PgConnection,
    job: &JobRowForUpdate,
    step: Uuid,
    next: Next,
    retry_delay: Duration,
) -> Result<(), StoreError> {
    match next {
        Next::Retry { delay } => make_pending(connection, step, Some(delay.delay(retry_delay))).await,
        Next::SnapshotAgain => {
            make_pending(connection, step, None).await?;
            sqlx::query(
                "UPDATE steps SET state = 'pending', ready_at = now(), lease_until = NULL, ended_at = NULL
                 WHERE job_id = $1 AND kind = 'take_snapshot'",
            )
            .bind(job.id.0)
            .execute(&mut *connection)
            .await
            .during("start the next round")?;
            sqlx::query("UPDATE jobs SET round = round + 1, snapshot_id = NULL WHERE id = $1")
                .bind(job.id.0)
                .execute(connection)
                .await
                .during("count the round")?;
            Ok(())
        }
        Next::Advance { state, ready, skip, error } => {
            end_step(connection, step, state, error.as_ref()).await?;
            skip_steps(connection, job.id, &skip).await?;
            sqlx::query(
                "UPDATE steps SET ready_at = now() WHERE job_id = $1 AND kind = $2 AND state = 'pending'",
            )
            .bind(job.id.0)
            .bind(ready.as_str())
            .execute(&mut *connection)
            .await
            .during("make the next step ready")?;
            sqlx::query("UPDATE jobs SET error = coalesce(error, $2) WHERE id = $1")
                .bind(job.id.0)
                .bind(error.map(Json))
                .execute(connection)
                .await
                .during("keep why a job will fail")?;
            Ok(())
        }
        Next::End { state, skip, job: job_state, error } => {
            end_step(connection, step, state, error.as_ref()).await?;
            skip_steps(connection, job.id, &skip).await?;
            end_job(connection, job, job_state, error).await
        }
    }
}

async fn end_job(
    connection: &mut PgConnection,
    job: &JobRowForUpdate,
    state: JobState,
    error: Option<JobError>,
) -> Result<(), StoreError> {
    debug_assert!(job.state.may_become(state), "{:?} -> {state:?}", job.state);
    sqlx::query(
        "UPDATE jobs SET state = $2, error = $3, ended_at = now() WHERE id = $1 AND state = 'running'",
    )
    .bind(job.id.0)
    .bind(state.as_str())
    .bind(error.map(Json))
    .execute(&mut *connection)
    .await
    .during("end a job")?;
    sqlx::query("UPDATE machine_slots SET active_job = NULL WHERE machine_id = $1 AND active_job = $2")
        .bind(job.machine)
        .bind(job.id.0)
        .execute(connection)
        .await
        .during("free a machine's slot")?;
    Ok(())
}

async fn end_step(
    connection: &mut PgConnection,
    step: Uuid,
    state: StepState,
    error: Option<&JobError>,
) -> Result<(), StoreError> {
    let error = if state == StepState::Done { None } else { error };
    sqlx::query(
        "UPDATE steps SET state = $2, error = $3, ended_at = now(), lease_until = NULL WHERE id = $1",
    )
    .bind(step)
    .bind(state.as_str())
    .bind(error.map(Json))
    .execute(connection)
    .await
    .during("end a step")?;
    Ok(())
}

async fn make_pending(
    connection: &mut PgConnection,
    step: Uuid,
    ready_in: Option<Duration>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE steps SET state = 'pending', ready_at = now() + $2, lease_until = NULL, committing_seq = NULL WHERE id = $1",
    )
    .bind(step)
    .bind(ready_in)
    .execute(connection)
    .await
    .during("make a step pending again")?;
    Ok(())
}

async fn skip_steps(connection: &mut PgConnection, job: JobId, kinds: &[StepKind]) -> Result<(), StoreError> {
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    sqlx::query(
        "UPDATE steps SET state = 'skipped', ended_at = now() WHERE job_id = $1 AND kind = ANY($2) AND state = 'pending'",
    )
    .bind(job.0)
    .bind(kinds)
    .execute(connection)
    .await
    .during("skip steps")?;
    Ok(())
}

async fn record_attempt(
    connection: &mut PgConnection,
    step: &StepForUpdate,
    outcome: &StepOutcome,
) -> Result<(), StoreError> {
    let (name, error) = match outcome {
        StepOutcome::Done => ("done", None),
        StepOutcome::Failed(error) => ("failed", Some(Json(error))),
        StepOutcome::Cancelled => ("cancelled", None),
        StepOutcome::Lost => ("lost", None),
    };
    sqlx::query("UPDATE step_attempts SET outcome = $3, error = $4, ended_at = now() WHERE step_id = $1 AND attempt = $2")
        .bind(step.id)
        .bind(step.attempt)
        .bind(name)
        .bind(error)
        .execute(connection)
        .await
        .during("record an attempt's end")?;
    Ok(())
}

/// Locks a machine's jobs until the transaction ends.
pub(super) async fn lock_slot(connection: &mut PgConnection, machine: Uuid) -> Result<(), StoreError> {
    sqlx::query("SELECT 1 FROM machine_slots WHERE machine_id = $1 FOR UPDATE")
        .bind(machine)
        .execute(connection)
        .await
        .during("lock a machine's slot")?;
    Ok(())
}

pub(super) async fn machine_of_step(
    connection: &mut PgConnection,
    step: StepId,
) -> Result<Option<(Uuid,)>, StoreError> {
    sqlx::query_as("SELECT j.machine_id FROM steps s JOIN jobs j ON j.id = s.job_id WHERE s.id = $1")
        .bind(step.0)
        .fetch_optional(connection)
        .await
        .during("find the machine of a step")
}

async fn load_step(connection: &mut PgConnection, step: StepId) -> Result<StepForUpdate, StoreError> {
    sqlx::query_as("SELECT id, job_id, kind, state, attempt, committing_seq FROM steps WHERE id = $1")
        .bind(step.0)
        .fetch_one(connection)
        .await
        .during("read a step")
}

impl StepForUpdate {
    fn kind(&self) -> Result<StepKind, StoreError> {
        StepKind::parse(&self.kind)
            .ok_or_else(|| StoreError::Corrupt { what: format!("step kind {:?}", self.kind) })
    }

    fn state(&self) -> Result<StepState, StoreError> {
        StepState::parse(&self.state)
            .ok_or_else(|| StoreError::Corrupt { what: format!("step state {:?}", self.state) })
    }
}

impl JobRowForUpdate {
    pub(super) async fn load(connection: &mut PgConnection, job: JobId) -> Result<Self, StoreError> {
        #[derive(sqlx::FromRow)]
        struct Row {
            machine_id: Uuid,
            state: String,
            cancel_requested: bool,
            round: i32,
            has_snapshot: bool,
            has_point: bool,
            error: Option<Json<JobError>>,
            warning: Option<Json<JobError>>,
        }
        let row: Row = sqlx::query_as(
            "SELECT machine_id, state, cancel_requested_at IS NOT NULL AS cancel_requested, round,
                    snapshot_id IS NOT NULL AS has_snapshot, point_id IS NOT NULL AS has_point, error, warning
             FROM jobs WHERE id = $1",
        )
        .bind(job.0)
        .fetch_one(connection)
        .await
        .during("read a job")?;
        let state = JobState::parse(&row.state)
            .ok_or_else(|| StoreError::Corrupt { what: format!("job state {:?}", row.state) })?;
        Ok(Self {
            id: job,
            machine: row.machine_id,
            state,
            cancel_requested: row.cancel_requested,
            round: row.round,
            has_snapshot: row.has_snapshot,
            has_point: row.has_point,
            error: row.error.map(|error| error.0),
            warning: row.warning.map(|warning| warning.0),
        })
    }

    pub(super) fn view(&self) -> JobView {
        JobView {
            cancel_requested: self.cancel_requested,
            round: self.round,
            has_snapshot: self.has_snapshot,
            has_point: self.has_point,
            error: self.error.clone(),
            warning: self.warning.clone(),
        }
    }
}

fn unconfirmed() -> JobError {
    JobError {
        code: "transfer_unconfirmed".to_owned(),
        fault: crate::domain::error::Fault::System,
        retryable: true,
        message: "the agent reported a point that the catalogue does not have".to_owned(),
        action: String::new(),
    }
}

fn wrong_report() -> JobError {
    JobError {
        code: "wrong_report".to_owned(),
        fault: crate::domain::error::Fault::Agent,
        retryable: false,
        message: "the agent reported the end of another kind of step".to_owned(),
        action: "upgrade the agent to the controller's version".to_owned(),
    }
}
