use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{FromRow as _, Row as _};
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, JobId, StepId};

use crate::domain::job::{Consistency, StepKind};

use super::advance::queue_again;
use super::slot::LockedSlot;
use super::{During, Store, StoreError};

/// A step that this controller claimed and now has to dispatch.
#[derive(Clone, Debug)]
pub(crate) struct ClaimedStep {
    pub(crate) step: StepId,
    pub(crate) kind: StepKind,
    pub(crate) attempt: i64,
    pub(crate) agent: AgentId,
    pub(crate) disk_names: Vec<String>,
    pub(crate) snapshot_id: Option<Uuid>,
    /// The least that is acceptable.
    pub(crate) minimum: Consistency,
}

#[derive(sqlx::FromRow)]
struct ClaimedRow {
    step_id: Uuid,
    kind: StepKind,
    attempt: i64,
    agent_id: Uuid,
    disk_names: Vec<String>,
    snapshot_id: Option<Uuid>,
    minimum_consistency: Consistency,
}

impl Store {
    /// Claims up to `limit` steps that are ready, for machines whose agents this controller holds; at most one per
    /// machine, and no more transfers than leave `max_transfers` of them running here. What has a value that this version does not know is
    /// claimed and not answered: it ends with its lease, and keeps no other one waiting.
    pub(crate) async fn claim_steps(
        &self,
        controller: Uuid,
        limit: i64,
        lease: Duration,
        max_transfers: u32,
    ) -> Result<Vec<ClaimedStep>, StoreError> {
        let rows = self
            .transaction("claim steps", move |connection| {
                Box::pin(async move {
                    // Two claims at once would each see the same room for transfers. The next statement has a snapshot of
                    // its own, so it sees what the claim before it did.
                    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))")
                        .bind(controller)
                        .execute(&mut *connection)
                        .await
                        .during("lock a controller's claims")?;
                    // Read only once it is committed: what cannot be read must not take the others back.
                    sqlx::query(include_str!("sql/claim_steps.sql"))
                        .bind(controller)
                        .bind(limit)
                        .bind(lease)
                        .bind(i64::from(max_transfers))
                        .fetch_all(connection)
                        .await
                        .during("claim steps")
                })
            })
            .await?;
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Takes a claim back that no agent ever heard of: it was no try, and a job of which it was the first has not begun. Its number stays
    /// used up: whoever still acts on this claim must not hit the next one. The agent is not here, so nothing is claimed for it until its
    /// next session or heartbeat.
    pub(crate) async fn undo_claim(&self, claimed: &ClaimedStep, controller: Uuid) -> Result<(), StoreError> {
        let (step, attempt, agent) = (claimed.step, claimed.attempt, claimed.agent);
        self.transaction("undo a claim", move |connection| {
            Box::pin(async move {
                let Some(slot) = LockedSlot::of_step(connection, step).await? else { return Ok(()) };
                sqlx::query("UPDATE agent_sessions SET controller_id = NULL WHERE agent_id = $1 AND controller_id = $2")
                    .bind(agent.0)
                    .bind(controller)
                    .execute(&mut *connection)
                    .await
                    .during("mark an agent as away")?;
                let undone: Option<(Uuid,)> = sqlx::query_as(
                    "UPDATE steps SET state = 'pending', tries = greatest(tries - 1, 0), ready_at = now(), lease_until = NULL
                     WHERE id = $1 AND attempt = $2 AND state = 'dispatched' RETURNING job_id",
                )
                .bind(step.0)
                .bind(attempt)
                .fetch_optional(&mut *connection)
                .await
                .during("undo a claim")?;
                let Some((job,)) = undone else { return Ok(()) };
                sqlx::query("DELETE FROM step_attempts WHERE step_id = $1 AND attempt = $2")
                    .bind(step.0)
                    .bind(attempt)
                    .execute(&mut *connection)
                    .await
                    .during("forget an undone claim")?;
                queue_again(connection, &slot, JobId(job)).await
            })
        })
        .await
    }
}

fn read(row: &PgRow) -> Option<ClaimedStep> {
    let row = ClaimedRow::from_row(row)
        .inspect_err(|error| {
            let step = row.try_get::<Uuid, _>("step_id").ok();
            tracing::error!(?step, %error, "a step was claimed that cannot be read; it ends with its lease");
        })
        .ok()?;
    Some(ClaimedStep {
        step: StepId(row.step_id),
        kind: row.kind,
        attempt: row.attempt,
        agent: AgentId(row.agent_id),
        disk_names: row.disk_names,
        snapshot_id: row.snapshot_id,
        minimum: row.minimum_consistency,
    })
}
