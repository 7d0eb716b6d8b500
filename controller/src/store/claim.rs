use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::{AgentId, StepId};

use crate::domain::job::{Consistency, StepKind};

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
    /// machine, and no more transfers than leave `max_transfers` of them running here.
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
                    sqlx::query_as::<_, ClaimedRow>(include_str!("sql/claim_steps.sql"))
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
        let claimed = |row: ClaimedRow| ClaimedStep {
            step: StepId(row.step_id),
            kind: row.kind,
            attempt: row.attempt,
            agent: AgentId(row.agent_id),
            disk_names: row.disk_names,
            snapshot_id: row.snapshot_id,
            minimum: row.minimum_consistency,
        };
        Ok(rows.into_iter().map(claimed).collect())
    }
}
