use chrono::{DateTime, Utc};

use holdfast_proto::ids::{JobId, MachineId};

use crate::domain::policy::Policy;

use super::backup::{self, Begun, Occasion};
use super::{During, Store, StoreError};

/// Jobs that are inserted by one statement.
const CHUNK: usize = 1000;

impl Store {
    /// Queues a backup of each machine for a slot of a policy, once, however many controllers ask: `None` if the policy was
    /// changed or evaluated by somebody else since it was read.
    pub(crate) async fn schedule(
        &self,
        policy: Policy,
        slot: DateTime<Utc>,
        machines: Vec<MachineId>,
    ) -> Result<Option<Begun>, StoreError> {
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
                let machines: Vec<_> =
                    machines.into_iter().map(|machine| (machine, JobId::generate())).collect();
                let (mut all, occasion) = (Begun::default(), Occasion::Slot { policy: &policy, at: slot });
                for chunk in machines.chunks(CHUNK) {
                    let Begun { queued, overlapped } = backup::begin(connection, occasion, chunk).await?;
                    all.queued += queued;
                    all.overlapped += overlapped;
                }
                sqlx::query("UPDATE policies SET evaluated_until = $2 WHERE id = $1")
                    .bind(policy.id)
                    .bind(slot)
                    .execute(connection)
                    .await
                    .during("note a slot")?;
                Ok(Some(all))
            })
        })
        .await
    }

    /// Evaluates a policy from now on, by a clock that went back.
    pub(crate) async fn restart_schedule(&self, policy: &Policy) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE policies SET evaluated_until = now(), wanted_since = least(wanted_since, now())
             WHERE id = $1 AND evaluated_until = $2",
        )
        .bind(policy.id)
        .bind(policy.evaluated_until)
        .execute(&self.pool)
        .await
        .during("restart a schedule")?;
        Ok(())
    }
}
