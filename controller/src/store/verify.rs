//! Whose turn it is to be verified.

use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use super::{During, Store, StoreError};

impl Store {
    /// The machine that waited longest, if its turn has come; nobody else is given it for a day after it was last renewed.
    pub(crate) async fn claim_verification(&self, period: Duration) -> Result<Option<MachineId>, StoreError> {
        let row: Option<(Uuid,)> = sqlx::query_as(
            "UPDATE machines SET verifying_since = now() WHERE id = (
                 SELECT m.id FROM machines m
                 WHERE coalesce(m.verified_at, m.enrolled_at) < now() - $1::interval
                   AND (m.verifying_since IS NULL OR m.verifying_since < now() - interval '1 day')
                   AND EXISTS (SELECT 1 FROM points p WHERE p.machine_id = m.id AND p.state <> 'purged')
                 ORDER BY coalesce(m.verified_at, m.enrolled_at) LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id",
        )
        .bind(period)
        .fetch_optional(&self.pool)
        .await
        .during("find a machine to verify")?;
        Ok(row.map(|(id,)| MachineId(id)))
    }

    /// It is still at it.
    pub(crate) async fn renew_verification(&self, machine: MachineId) -> Result<(), StoreError> {
        sqlx::query("UPDATE machines SET verifying_since = now() WHERE id = $1")
            .bind(machine.0)
            .execute(&self.pool)
            .await
            .during("renew a verification")?;
        Ok(())
    }

    pub(crate) async fn end_verification(&self, machine: MachineId) -> Result<(), StoreError> {
        sqlx::query("UPDATE machines SET verified_at = now(), verifying_since = NULL WHERE id = $1")
            .bind(machine.0)
            .execute(&self.pool)
            .await
            .during("record a verification")?;
        Ok(())
    }
}
