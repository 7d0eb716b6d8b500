//! What nobody reports on any more. Every controller may run all of it at any time.

use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::{JobId, StepId};

use crate::domain::error::JobError;
use crate::domain::job::JobState;

use super::attempt::lock_slot;
use super::job::end_queued;
use super::{During, Store, StoreError};

/// Rows that one pass looks at; the next pass takes the rest.
const BATCH: i64 = 500;

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

    /// Steps of running jobs that have waited for their agent for longer than `patience`.
    pub(crate) async fn abandoned_steps(&self, patience: Duration) -> Result<Vec<StepId>, StoreError> {
        let rows: Vec<(Uuid,)> = sqlx::query_as(
            "SELECT s.id FROM steps s JOIN jobs j ON j.id = s.job_id
             JOIN agent_sessions a ON a.machine_id = j.machine_id
             WHERE j.state = 'running' AND s.state = 'pending' AND s.ready_at < now() - $1::interval
               AND a.controller_id IS NULL AND coalesce(a.last_seen_at, '-infinity') < now() - $1::interval
             LIMIT $2",
        )
        .bind(patience)
        .bind(BATCH)
        .fetch_all(&self.pool)
        .await
        .during("find abandoned steps")?;
        Ok(rows.into_iter().map(|(step,)| StepId(step)).collect())
    }

    /// Ends queued jobs that were not started in time.
    pub(crate) async fn expire_queued(&self) -> Result<u64, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT id, machine_id FROM jobs WHERE state = 'queued' AND expires_at < now() ORDER BY expires_at LIMIT $1",
        )
        .bind(BATCH)
        .fetch_all(&self.pool)
        .await
        .during("find expired jobs")?;
        let mut ended = 0;
        for (job, machine) in rows {
            ended += self
                .transaction("expire a job", move |connection| {
                    Box::pin(async move {
                        lock_slot(connection, machine).await?;
                        let still: Option<(i32,)> =
                            sqlx::query_as("SELECT 1 FROM jobs WHERE id = $1 AND state = 'queued'")
                                .bind(job)
                                .fetch_optional(&mut *connection)
                                .await
                                .during("check a job to expire")?;
                        if still.is_none() {
                            return Ok(0);
                        }
                        end_queued(connection, JobId(job), JobState::Expired, &JobError::expired()).await?;
                        Ok(1)
                    })
                })
                .await?;
        }
        Ok(ended)
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
