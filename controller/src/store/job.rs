use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, JobId, MachineId, StepId};

use crate::domain::backup::cancel_pending;
use crate::domain::error::JobError;
use crate::domain::job::{JobState, StepKind, StepState};

use super::advance::{JobToAdvance, advance, end_queued};
use super::page::{Page, PageSize, Sorted};
use super::slot::LockedSlot;
use super::{During, Store, StoreError, audit};

/// A job with its steps, as it is shown.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct JobRow {
    pub(crate) id: Uuid,
    pub(crate) state: JobState,
    pub(crate) machine_id: Uuid,
    pub(crate) machine_name: String,
    pub(crate) disk_names: Vec<String>,
    pub(crate) point_id: Option<Uuid>,
    pub(crate) error: Option<Json<JobError>>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) cancel_requested: bool,
    pub(crate) policy_name: Option<String>,
    pub(crate) policy_revision: Option<i64>,
    pub(crate) slot: Option<DateTime<Utc>>,
    pub(crate) deadline: DateTime<Utc>,
    pub(crate) steps: Json<Vec<StepRow>>,
}

#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct StepRow {
    pub(crate) id: Uuid,
    pub(crate) kind: StepKind,
    pub(crate) state: StepState,
    pub(crate) attempt: i64,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) total_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) error: Option<JobError>,
}

/// An attempt that has to be told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptToStop {
    pub(crate) agent: AgentId,
    pub(crate) step: StepId,
    pub(crate) attempt: i64,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobFilter {
    pub(crate) machine: Option<Uuid>,
    pub(crate) state: Option<JobState>,
    /// Jobs older than this one.
    pub(crate) before: Option<Uuid>,
}

impl Sorted for JobRow {
    fn sort_key(&self) -> String {
        self.id.to_string()
    }
}

impl Store {
    pub(crate) async fn find_job(&self, job: JobId) -> Result<JobRow, StoreError> {
        sqlx::query_as(concat!(include_str!("sql/job.sql"), "WHERE j.id = $1"))
            .bind(job.0)
            .fetch_optional(&self.pool)
            .await
            .during("find a job")?
            .ok_or_else(|| StoreError::NotFound { noun: "job", name: job.to_string() })
    }

    /// Lists jobs, newest first.
    pub(crate) async fn list_jobs(
        &self,
        filter: JobFilter,
        size: PageSize,
    ) -> Result<Page<JobRow>, StoreError> {
        let rows = sqlx::query_as(concat!(
            include_str!("sql/job.sql"),
            "WHERE ($1::uuid IS NULL OR j.machine_id = $1) AND ($2::text IS NULL OR j.state = $2)
               AND ($3::uuid IS NULL OR j.id < $3)
             ORDER BY j.id DESC LIMIT $4"
        ))
        .bind(filter.machine)
        .bind(filter.state.map(JobState::as_str))
        .bind(filter.before)
        .bind(size.limit())
        .fetch_all(&self.pool)
        .await
        .during("list jobs")?;
        Ok(size.page(rows))
    }

    /// Asks a job to stop: a queued one ends here, one whose current step is not claimed goes on without it, and an attempt
    /// that is out is found by [`Store::attempts_to_stop`].
    pub(crate) async fn request_cancel(&self, job: JobId, operator: &str) -> Result<(), StoreError> {
        let operator = operator.to_owned();
        self.transaction("cancel a job", move |connection| {
            Box::pin(async move {
                let row: Option<(Uuid,)> = sqlx::query_as("SELECT machine_id FROM jobs WHERE id = $1")
                    .bind(job.0)
                    .fetch_optional(&mut *connection)
                    .await
                    .during("find a job to cancel")?;
                let Some((machine,)) = row else {
                    return Err(StoreError::NotFound { noun: "job", name: job.to_string() });
                };
                let slot = LockedSlot::of_machine(connection, MachineId(machine)).await?;
                let row = JobToAdvance::load(connection, job).await?;
                match row.state {
                    JobState::Cancelled => return Ok(()),
                    state if state.is_terminal() => return Err(StoreError::JobEnded { state: state.as_str() }),
                    _ => {}
                }
                if row.cancel_requested {
                    return Ok(());
                }
                sqlx::query("UPDATE jobs SET cancel_requested_at = now() WHERE id = $1")
                    .bind(job.0)
                    .execute(&mut *connection)
                    .await
                    .during("request a cancel")?;
                audit::record(connection, &operator, "job.cancel", &job.to_string(), json!({})).await?;
                if row.state == JobState::Queued {
                    let error = JobError::cancelled();
                    return end_queued(connection, &slot, job, JobState::Cancelled, &error).await;
                }
                let pending: Option<(Uuid, StepKind)> = sqlx::query_as(
                    "SELECT id, kind FROM steps WHERE job_id = $1 AND state = 'pending' AND ready_at IS NOT NULL",
                )
                .bind(job.0)
                .fetch_optional(&mut *connection)
                .await
                .during("find the step to cancel")?;
                if let Some((step, kind)) = pending
                    && let Some(next) = cancel_pending(&row.view(), kind)
                {
                    advance(connection, &slot, &row, step, next, Duration::ZERO).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Attempts of cancelled jobs that are out on this controller's agents. Not those whose commit began, and never a release.
    pub(crate) async fn attempts_to_stop(&self, controller: Uuid) -> Result<Vec<AttemptToStop>, StoreError> {
        let rows: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
            "SELECT a.agent_id, s.id, s.attempt
             FROM steps s JOIN jobs j ON j.id = s.job_id JOIN agent_sessions a ON a.machine_id = j.machine_id
             WHERE s.state IN ('dispatched', 'running') AND s.kind <> 'release_snapshot' AND s.committing_seq IS NULL
               AND j.state = 'running' AND j.cancel_requested_at IS NOT NULL AND a.controller_id = $1
             LIMIT 1000",
        )
        .bind(controller)
        .fetch_all(&self.pool)
        .await
        .during("find attempts to stop")?;
        Ok(rows
            .into_iter()
            .map(|(agent, step, attempt)| AttemptToStop {
                agent: AgentId(agent),
                step: StepId(step),
                attempt,
            })
            .collect())
    }
}
