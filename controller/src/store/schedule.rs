use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{JobId, MachineId, StepId};

use crate::domain::error::JobError;
use crate::domain::policy::Policy;

use super::{During, Store, StoreError};

/// Jobs that are inserted by one statement.
const CHUNK: usize = 1000;

/// What became of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scheduled {
    pub(crate) queued: u64,
    /// An earlier backup of the same policy was not over.
    pub(crate) overlapped: u64,
}

impl Store {
    /// Queues a backup of each machine for a slot of a policy, once, however many controllers ask: `None` if the policy was
    /// changed or evaluated by somebody else since it was read.
    pub(crate) async fn schedule(
        &self,
        policy: Policy,
        slot: DateTime<Utc>,
        machines: Vec<MachineId>,
    ) -> Result<Option<Scheduled>, StoreError> {
        self.transaction("schedule a slot", move |connection| {
            Box::pin(async move {
                // Whoever comes second waits here, and finds another evaluated_until.
                let current: Option<(i64, DateTime<Utc>)> =
                    sqlx::query_as("SELECT revision, evaluated_until FROM policies WHERE id = $1 FOR UPDATE")
                        .bind(policy.id)
                        .fetch_optional(&mut *connection)
                        .await
                        .during("lock a policy's schedule")?;
                if current != Some((policy.revision, policy.evaluated_until)) {
                    return Ok(None);
                }
                let mut scheduled = Scheduled::default();
                for chunk in machines.chunks(CHUNK) {
                    let (queued, overlapped) = insert(connection, &policy, slot, chunk).await?;
                    scheduled.queued += queued;
                    scheduled.overlapped += overlapped;
                }
                sqlx::query("UPDATE policies SET evaluated_until = $2 WHERE id = $1")
                    .bind(policy.id)
                    .bind(slot)
                    .execute(connection)
                    .await
                    .during("note a slot")?;
                Ok(Some(scheduled))
            })
        })
        .await
    }

    /// Evaluates a policy from now on, by a clock that went back.
    pub(crate) async fn restart_schedule(&self, policy: &Policy) -> Result<(), StoreError> {
        sqlx::query("UPDATE policies SET evaluated_until = now() WHERE id = $1 AND evaluated_until = $2")
            .bind(policy.id)
            .bind(policy.evaluated_until)
            .execute(&self.pool)
            .await
            .during("restart a schedule")?;
        Ok(())
    }
}

async fn insert(
    connection: &mut PgConnection,
    policy: &Policy,
    slot: DateTime<Utc>,
    machines: &[MachineId],
) -> Result<(u64, u64), StoreError> {
    let ids = |make: fn() -> Uuid| machines.iter().map(|_| make()).collect::<Vec<Uuid>>();
    let within = TimeDelta::from_std(policy.spec.complete_within).unwrap_or(TimeDelta::days(31));
    let (queued, overlapped): (i64, i64) = sqlx::query_as(include_str!("sql/schedule_slot.sql"))
        .bind(machines.iter().map(|machine| machine.0).collect::<Vec<Uuid>>())
        .bind(ids(|| JobId::generate().0))
        .bind(ids(|| StepId::generate().0))
        .bind(ids(|| StepId::generate().0))
        .bind(ids(|| StepId::generate().0))
        .bind(policy.id)
        .bind(&policy.name)
        .bind(policy.revision)
        .bind(slot)
        .bind(within)
        .bind(policy.spec.minimum.as_str())
        .bind(&policy.spec.disks)
        .bind(Json(JobError::overlap()))
        .fetch_one(connection)
        .await
        .during("queue the backups of a slot")?;
    Ok((u64::try_from(queued).unwrap_or(0), u64::try_from(overlapped).unwrap_or(0)))
}
