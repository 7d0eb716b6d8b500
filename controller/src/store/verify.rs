//! Whose turn it is to be verified.

use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use super::{During, Store, StoreError};

impl Store {
    /// The machine that waited longest, if its turn has come, and up to which segment it was read already; nobody else is given it for
    /// three hours after it was last renewed.
    pub(crate) async fn claim_verification(
        &self,
        period: Duration,
    ) -> Result<Option<(MachineId, Option<String>)>, StoreError> {
        let row: Option<(Uuid, Option<String>)> = sqlx::query_as(
            "UPDATE machines SET verifying_since = now() WHERE id = (
                 SELECT m.id FROM machines m
                 WHERE coalesce(m.verified_at, m.enrolled_at) < now() - $1::interval
                   AND (m.verifying_since IS NULL OR m.verifying_since < now() - interval '3 hours')
                   AND EXISTS (SELECT 1 FROM points p WHERE p.machine_id = m.id AND p.state <> 'purged')
                 ORDER BY coalesce(m.verified_at, m.enrolled_at) LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id, verified_to",
        )
        .bind(period)
        .fetch_optional(&self.pool)
        .await
        .during("find a machine to verify")?;
        Ok(row.map(|(id, to)| (MachineId(id), to)))
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

    /// It was read up to this segment.
    pub(crate) async fn record_verified_to(
        &self,
        machine: MachineId,
        segment: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE machines SET verified_to = $2, verifying_since = now() WHERE id = $1")
            .bind(machine.0)
            .bind(segment)
            .execute(&self.pool)
            .await
            .during("record how far a verification is")?;
        Ok(())
    }

    /// Nobody is at it any more; whoever claims it goes on where it was left.
    pub(crate) async fn leave_verification(&self, machine: MachineId) -> Result<(), StoreError> {
        sqlx::query("UPDATE machines SET verifying_since = NULL WHERE id = $1")
            .bind(machine.0)
            .execute(&self.pool)
            .await
            .during("leave a verification")?;
        Ok(())
    }

    /// All of it was read.
    pub(crate) async fn end_verification(&self, machine: MachineId) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE machines SET verified_at = now(), verified_to = NULL, verifying_since = NULL WHERE id = $1",
        )
        .bind(machine.0)
        .execute(&self.pool)
        .await
        .during("record a verification")?;
        Ok(())
    }
}
