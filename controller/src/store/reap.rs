//! What nobody reports on any more. Every controller may run all of it at any time.

use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::{AgentId, JobId, MachineId, StepId};

use crate::domain::error::JobError;
use crate::domain::job::JobState;

use super::advance::{JobToAdvance, end_queued};
use super::attempt::{AttemptEnd, AttemptKey, end_attempt, give_up_job};
use super::slot::LockedSlot;
use super::{During, Store, StoreError};

/// Rows that one pass looks at; the next pass takes the rest.
const BATCH: i64 = 500;

/// What is further ahead than anything can be, by so much, was written by a clock that was.
const LEAP: Duration = Duration::from_secs(600);

/// Steps, and their jobs, that have waited for their agent for longer than $1.
macro_rules! abandoned {
    () => {
        "SELECT s.id, j.id FROM steps s JOIN jobs j ON j.id = s.job_id
         JOIN agent_sessions a ON a.machine_id = j.machine_id
         WHERE j.state = 'running' AND s.state = 'pending' AND s.ready_at < now() - $1::interval
           AND a.controller_id IS NULL AND coalesce(a.last_seen_at, '-infinity') < now() - $1::interval"
    };
}

/// An attempt that does not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StalledAttempt {
    pub(crate) step: StepId,
    pub(crate) attempt: i64,
    pub(crate) agent: AgentId,
}

impl Store {
    /// Attempts whose lease is over. Those whose commit began are the resolver's.
    pub(crate) async fn expired_leases(&self) -> Result<Vec<(StepId, i64)>, StoreError> {
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT id, attempt FROM steps
             WHERE state IN ('dispatched', 'running') AND committing_seq IS NULL AND lease_until < now()
             ORDER BY lease_until LIMIT $1",
        )
        .bind(BATCH)
        .fetch_all(&self.pool)
        .await
        .during("find expired leases")?;
        Ok(rows.into_iter().map(|(step, attempt)| (StepId(step), attempt)).collect())
    }

    /// Ends an attempt whose lease is over, unless it was renewed or began its commit meanwhile. Answers whether it did.
    pub(crate) async fn end_expired(
        &self,
        step: StepId,
        attempt: i64,
        retry_delay: Duration,
    ) -> Result<bool, StoreError> {
        self.transaction("end an expired attempt", move |connection| {
            Box::pin(async move {
                let Some(slot) = LockedSlot::of_step(connection, step).await? else { return Ok(false) };
                let over: Option<(i32,)> = sqlx::query_as(
                    "SELECT 1 FROM steps WHERE id = $1 AND attempt = $2 AND lease_until < now() AND committing_seq IS NULL
                     AND state IN ('dispatched', 'running') FOR UPDATE",
                )
                .bind(step.0)
                .bind(attempt)
                .fetch_optional(&mut *connection)
                .await
                .during("check an expired lease")?;
                if over.is_none() {
                    return Ok(false);
                }
                let key = AttemptKey { step, attempt, machine: None };
                end_attempt(connection, &slot, key, AttemptEnd::Lost, retry_delay).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Attempts that this controller's agents work on and that have not got on for `patience`. Those whose commit began are the
    /// resolver's.
    pub(crate) async fn stalled_attempts(
        &self,
        controller: Uuid,
        patience: Duration,
    ) -> Result<Vec<StalledAttempt>, StoreError> {
        let rows: Vec<(Uuid, i64, Uuid)> = sqlx::query_as(
            "SELECT s.id, s.attempt, a.agent_id FROM steps s JOIN jobs j ON j.id = s.job_id
             JOIN agent_sessions a ON a.machine_id = j.machine_id
             WHERE s.state IN ('dispatched', 'running') AND s.committing_seq IS NULL AND s.controller_id = $1
               AND s.progressed_at < now() - $2::interval
             ORDER BY s.progressed_at LIMIT $3",
        )
        .bind(controller)
        .bind(patience)
        .bind(BATCH)
        .fetch_all(&self.pool)
        .await
        .during("find stalled attempts")?;
        Ok(rows
            .into_iter()
            .map(|(step, attempt, agent)| StalledAttempt {
                step: StepId(step),
                attempt,
                agent: AgentId(agent),
            })
            .collect())
    }

    /// Ends an attempt that has not got on for `patience`, unless it did or began its commit meanwhile. Answers whether it did.
    pub(crate) async fn end_stalled(
        &self,
        stalled: StalledAttempt,
        patience: Duration,
        retry_delay: Duration,
    ) -> Result<bool, StoreError> {
        let StalledAttempt { step, attempt, .. } = stalled;
        self.transaction("end a stalled attempt", move |connection| {
            Box::pin(async move {
                let Some(slot) = LockedSlot::of_step(connection, step).await? else { return Ok(false) };
                let stalled: Option<(i32,)> = sqlx::query_as(
                    "SELECT 1 FROM steps WHERE id = $1 AND attempt = $2 AND progressed_at < now() - $3::interval
                     AND committing_seq IS NULL AND state IN ('dispatched', 'running') FOR UPDATE",
                )
                .bind(step.0)
                .bind(attempt)
                .bind(patience)
                .fetch_optional(&mut *connection)
                .await
                .during("check a stalled attempt")?;
                if stalled.is_none() {
                    return Ok(false);
                }
                let key = AttemptKey { step, attempt, machine: None };
                let end = AttemptEnd::Failed(JobError::no_progress());
                end_attempt(connection, &slot, key, end, retry_delay).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Steps of running jobs that have waited for their agent for longer than `patience`.
    pub(crate) async fn abandoned_steps(&self, patience: Duration) -> Result<Vec<StepId>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(concat!(abandoned!(), " LIMIT $2"))
            .bind(patience)
            .bind(BATCH)
            .fetch_all(&self.pool)
            .await
            .during("find abandoned steps")?;
        Ok(rows.into_iter().map(|(step, _)| StepId(step)).collect())
    }

    /// Ends the job of a step that has waited for its agent for longer than `patience`, unless that came meanwhile: what it held for the job
    /// its next Hello removes. Answers whether it did.
    pub(crate) async fn end_abandoned(&self, step: StepId, patience: Duration) -> Result<bool, StoreError> {
        self.transaction("end an abandoned job", move |connection| {
            Box::pin(async move {
                let Some(slot) = LockedSlot::of_step(connection, step).await? else { return Ok(false) };
                // The session as well: a Hello that comes now is answered when the job is over.
                let abandoned: Option<(Uuid, Uuid)> =
                    sqlx::query_as(concat!(abandoned!(), " AND s.id = $2 FOR UPDATE OF a"))
                        .bind(patience)
                        .bind(step.0)
                        .fetch_optional(&mut *connection)
                        .await
                        .during("check an abandoned step")?;
                let Some((_, job)) = abandoned else { return Ok(false) };
                give_up_job(connection, &slot, JobId(job), &JobError::agent_lost()).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Queued jobs that were not started in time.
    pub(crate) async fn overdue_jobs(&self) -> Result<Vec<(JobId, MachineId)>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT id, machine_id FROM jobs WHERE state = 'queued' AND expires_at < now() ORDER BY expires_at LIMIT $1",
        )
        .bind(BATCH)
        .fetch_all(&self.pool)
        .await
        .during("find overdue jobs")?;
        Ok(rows.into_iter().map(|(job, machine)| (JobId(job), MachineId(machine))).collect())
    }

    /// Ends an overdue job, unless it was started meanwhile.
    pub(crate) async fn expire_job(&self, job: JobId, machine: MachineId) -> Result<(), StoreError> {
        self.transaction("expire a job", move |connection| {
            Box::pin(async move {
                let slot = LockedSlot::of_machine(connection, machine).await?;
                if JobToAdvance::load(connection, job).await?.state == JobState::Queued {
                    end_queued(connection, &slot, job, JobState::Expired, &JobError::expired()).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Takes back what was written while the database's clock was ahead: waits before the next try, leases, and when jobs were queued and by
    /// when they are to start. Until the right clock was there, nothing would claim or end them. Answers how much that was.
    pub(crate) async fn undo_leap(&self, longest_wait: Duration, lease: Duration) -> Result<u64, StoreError> {
        let waits = sqlx::query(
            // A step of a job that has not begun waits for nothing.
            "WITH ahead AS (SELECT s.id FROM steps s JOIN jobs j ON j.id = s.job_id
                            WHERE s.state = 'pending'
                              AND s.ready_at > now() + $2::interval
                                + CASE WHEN j.state = 'queued' THEN interval '0' ELSE $1::interval END
                            FOR NO KEY UPDATE OF s SKIP LOCKED)
             UPDATE steps SET ready_at = now() FROM ahead WHERE steps.id = ahead.id",
        )
        .bind(longest_wait)
        .bind(LEAP)
        .execute(&self.pool)
        .await
        .during("end waits that a wrong clock began")?;
        let leases = sqlx::query(
            "WITH ahead AS (SELECT id FROM steps WHERE state IN ('dispatched', 'running')
                              AND (lease_until > now() + $1::interval + $2::interval OR progressed_at > now() + $2::interval)
                            FOR NO KEY UPDATE SKIP LOCKED)
             UPDATE steps SET lease_until = least(lease_until, now() + $1::interval), progressed_at = least(progressed_at, now())
             FROM ahead WHERE steps.id = ahead.id",
        )
        .bind(lease)
        .bind(LEAP)
        .execute(&self.pool)
        .await
        .during("shorten leases that a wrong clock gave")?;
        let jobs = sqlx::query(
            // A slot that is to come yet is still to come: the point is of now.
            "WITH ahead AS (SELECT id FROM jobs WHERE state = 'queued' AND created_at > now() + $1::interval
                            FOR NO KEY UPDATE SKIP LOCKED)
             UPDATE jobs SET created_at = now(), run_at = now(), expires_at = now() + (expires_at - created_at),
                 deadline = least(deadline, now() + (expires_at - created_at)),
                 slot = CASE WHEN slot <= now() THEN slot END
             FROM ahead WHERE jobs.id = ahead.id",
        )
        .bind(LEAP)
        .execute(&self.pool)
        .await
        .during("set when jobs were queued by a wrong clock")?;
        let labels =
            sqlx::query("UPDATE machines SET labelled_at = now() WHERE labelled_at > now() + $1::interval")
                .bind(LEAP)
                .execute(&self.pool)
                .await
                .during("set when machines were labelled by a wrong clock")?;
        Ok(waits.rows_affected() + leases.rows_affected() + jobs.rows_affected() + labels.rows_affected())
    }

    /// Sessions of controllers that died without a word count as offline once they were silent for `silence`.
    pub(crate) async fn drop_silent_sessions(&self, silence: Duration) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE agent_sessions SET controller_id = NULL
             WHERE controller_id IS NOT NULL AND last_seen_at < now() - $1::interval",
        )
        .bind(silence)
        .execute(&self.pool)
        .await
        .during("drop silent sessions")?;
        Ok(())
    }

    /// Forgets request ids after a day.
    pub(crate) async fn forget_requests(&self) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM requests WHERE created_at < now() - interval '24 hours'")
            .execute(&self.pool)
            .await
            .during("forget request ids")?;
        Ok(())
    }
}
