//! Carries decisions out: what `domain::backup` says follows becomes rows.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::JobId;

use crate::domain::backup::{JobView, Next};
use crate::domain::error::JobError;
use crate::domain::job::{JobState, StepKind, StepState};

use super::slot::LockedSlot;
use super::{During, StoreError};

/// A job as the decisions need it, read under the slot lock.
#[derive(Debug)]
pub(super) struct JobToAdvance {
    pub(super) id: JobId,
    pub(super) state: JobState,
    pub(super) cancel_requested: bool,
    round: i32,
    has_snapshot: bool,
    has_point: bool,
    error: Option<JobError>,
    warning: Option<JobError>,
}

/// Carries out what follows from the end of a step.
pub(super) async fn advance(
    connection: &mut PgConnection,
    slot: &LockedSlot,
    job: &JobToAdvance,
    step: Uuid,
    next: Next,
    retry_delay: Duration,
) -> Result<(), StoreError> {
    match next {
        Next::Retry { delay } => {
            make_pending(connection, step, Some(delay.delay(retry_delay, rand::random()))).await
        }
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
            sqlx::query("UPDATE steps SET tries = 0 WHERE job_id = $1")
                .bind(job.id.0)
                .execute(&mut *connection)
                .await
                .during("begin to count tries anew")?;
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
            end_job(connection, slot, job, job_state, error).await
        }
    }
}

async fn end_job(
    connection: &mut PgConnection,
    slot: &LockedSlot,
    job: &JobToAdvance,
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
    free(connection, slot, job.id).await
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
        "UPDATE steps SET state = 'pending', ready_at = now() + $2, lease_until = NULL, committing_seq = NULL, committing_base = NULL WHERE id = $1",
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

/// Ends a job that never started.
pub(super) async fn end_queued(
    connection: &mut PgConnection,
    _slot: &LockedSlot,
    job: JobId,
    state: JobState,
    error: &JobError,
) -> Result<(), StoreError> {
    debug_assert!(JobState::Queued.may_become(state) && state.is_terminal());
    sqlx::query(
        "UPDATE steps SET state = 'skipped', ended_at = now() WHERE job_id = $1 AND state = 'pending'",
    )
    .bind(job.0)
    .execute(&mut *connection)
    .await
    .during("skip the steps of a job")?;
    sqlx::query(
        "UPDATE jobs SET state = $2, error = $3, ended_at = now() WHERE id = $1 AND state = 'queued'",
    )
    .bind(job.0)
    .bind(state.as_str())
    .bind(Json(error))
    .execute(connection)
    .await
    .during("end a queued job")?;
    Ok(())
}

/// Makes a job wait again that no agent ever heard of: while it runs, neither its deadline nor a cancel would end it.
pub(super) async fn queue_again(
    connection: &mut PgConnection,
    slot: &LockedSlot,
    job: JobId,
) -> Result<(), StoreError> {
    let untried: Option<(bool,)> = sqlx::query_as(
        "UPDATE jobs SET state = 'queued', started_at = NULL WHERE id = $1 AND state = 'running' AND NOT EXISTS (
           SELECT 1 FROM steps s JOIN step_attempts a ON a.step_id = s.id WHERE s.job_id = $1)
         RETURNING cancel_requested_at IS NOT NULL",
    )
    .bind(job.0)
    .fetch_optional(&mut *connection)
    .await
    .during("queue a job again")?;
    let Some((cancel_requested,)) = untried else { return Ok(()) };
    debug_assert!(JobState::Running.may_become(JobState::Queued));
    sqlx::query("UPDATE steps SET started_at = NULL WHERE job_id = $1")
        .bind(job.0)
        .execute(&mut *connection)
        .await
        .during("forget that a job began")?;
    free(connection, slot, job).await?;
    if cancel_requested {
        end_queued(connection, slot, job, JobState::Cancelled, &JobError::cancelled()).await?;
    }
    Ok(())
}

async fn free(connection: &mut PgConnection, slot: &LockedSlot, job: JobId) -> Result<(), StoreError> {
    sqlx::query("UPDATE machine_slots SET active_job = NULL WHERE machine_id = $1 AND active_job = $2")
        .bind(slot.machine.0)
        .bind(job.0)
        .execute(connection)
        .await
        .during("free a machine's slot")?;
    Ok(())
}

impl JobToAdvance {
    pub(super) async fn load(connection: &mut PgConnection, job: JobId) -> Result<Self, StoreError> {
        #[derive(sqlx::FromRow)]
        struct Row {
            state: JobState,
            cancel_requested: bool,
            round: i32,
            has_snapshot: bool,
            has_point: bool,
            error: Option<Json<JobError>>,
            warning: Option<Json<JobError>>,
        }
        let row: Row = sqlx::query_as(
            "SELECT state, cancel_requested_at IS NOT NULL AS cancel_requested, round,
                    snapshot_id IS NOT NULL AS has_snapshot, point_id IS NOT NULL AS has_point, error, warning
             FROM jobs WHERE id = $1",
        )
        .bind(job.0)
        .fetch_one(connection)
        .await
        .during("read a job")?;
        Ok(Self {
            id: job,
            state: row.state,
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
