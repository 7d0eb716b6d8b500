use serde_json::json;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use holdfast_proto::ids::{JobId, MachineId};

use crate::domain::error::JobError;
use crate::domain::job::JobState;
use crate::store::advance::end_queued;
use crate::store::attempt::give_up_job;
use crate::store::slot::LockedSlot;
use crate::store::{During, Store, StoreError, agent, audit};

impl Store {
    /// Ends a machine's protection, unless an attempt of it is out, or a snapshot that its agent is there to release. Its row and points
    /// stay. What is removed already stays so, but loses what a controller that knew of no removals gave it since.
    pub(crate) async fn remove_machine(&self, machine: MachineId, operator: &str) -> Result<(), StoreError> {
        let operator = operator.to_owned();
        self.transaction("remove a machine", move |connection| {
            Box::pin(async move {
                let slot = LockedSlot::of_machine(connection, machine).await?;
                // Excludes whoever makes a job for it, who has its row locked until that job is seen here.
                let (name, is_removed): (String, bool) =
                    sqlx::query_as("SELECT name, removed_at IS NOT NULL FROM machines WHERE id = $1 FOR UPDATE")
                        .bind(machine.0)
                        .fetch_one(&mut *connection)
                        .await
                        .during("find a machine to remove")?;
                let ended = end_jobs(connection, &slot).await?;
                let agent = agent::forget(connection, machine).await?;
                if is_removed && ended.is_empty() && agent.is_none() {
                    return Ok(());
                }
                sqlx::query("UPDATE machines SET removed_at = coalesce(removed_at, now()), quarantine = NULL WHERE id = $1")
                    .bind(machine.0)
                    .execute(&mut *connection)
                    .await
                    .during("remove a machine")?;
                let detail = json!({ "name": name, "agent": agent.map(|(agent, _)| agent), "ended_jobs": ended });
                audit::record(connection, &operator, "machine.remove", &machine.to_string(), detail).await
            })
        })
        .await
    }
}

/// Ends the jobs of a machine that is being removed; answers which.
async fn end_jobs(connection: &mut PgConnection, slot: &LockedSlot) -> Result<Vec<Uuid>, StoreError> {
    let rows: Vec<(Uuid, JobState)> =
        sqlx::query_as("SELECT id, state FROM jobs WHERE machine_id = $1 AND state IN ('queued', 'running')")
            .bind(slot.machine.0)
            .fetch_all(&mut *connection)
            .await
            .during("list the jobs of a machine to remove")?;
    let why = JobError::machine_removed();
    for (job, state) in &rows {
        if *state == JobState::Running {
            if has_snapshot_of_a_living_agent(connection, *job).await? {
                return Err(StoreError::MachineBusy { job: *job });
            }
            give_up_job(connection, slot, JobId(*job), &why).await?;
        } else {
            end_queued(connection, slot, JobId(*job), JobState::Cancelled, &why).await?;
        }
    }
    Ok(rows.into_iter().map(|(job, _)| job).collect())
}

/// Such a job ends within seconds of its cancel, and its snapshot before it.
async fn has_snapshot_of_a_living_agent(
    connection: &mut PgConnection,
    job: Uuid,
) -> Result<bool, StoreError> {
    let row: Option<(i32,)> = sqlx::query_as(
        "SELECT 1 FROM jobs j JOIN agent_sessions s USING (machine_id)
         WHERE j.id = $1 AND j.snapshot_id IS NOT NULL AND s.controller_id IS NOT NULL",
    )
    .bind(job)
    .fetch_optional(connection)
    .await
    .during("look for a snapshot to be released")?;
    Ok(row.is_some())
}
