use sqlx::postgres::PgConnection;
use uuid::Uuid;

use holdfast_proto::ids::{MachineId, StepId};

use super::{During, StoreError};

/// Proof that the transaction at hand holds a machine's `machine_slots` row: until it ends, nobody else decides on a job or step
/// of the machine. Whatever starts, moves or ends one takes this; progress and leases do not need it.
#[derive(Debug)]
pub(super) struct LockedSlot {
    pub(super) machine: MachineId,
}

impl LockedSlot {
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such machine.
    pub(super) async fn of_machine(
        connection: &mut PgConnection,
        machine: MachineId,
    ) -> Result<Self, StoreError> {
        let locked = sqlx::query("SELECT 1 FROM machine_slots WHERE machine_id = $1 FOR UPDATE")
            .bind(machine.0)
            .fetch_optional(connection)
            .await
            .during("lock a machine's slot")?;
        match locked {
            Some(_) => Ok(Self { machine }),
            None => Err(StoreError::NotFound { noun: "machine", name: machine.to_string() }),
        }
    }

    /// `None` if there is no such step.
    pub(super) async fn of_step(
        connection: &mut PgConnection,
        step: StepId,
    ) -> Result<Option<Self>, StoreError> {
        match machine_of_step(connection, step).await? {
            Some(machine) => Self::of_machine(connection, machine).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether a step is one of this machine's.
    pub(super) async fn covers(
        &self,
        connection: &mut PgConnection,
        step: StepId,
    ) -> Result<bool, StoreError> {
        Ok(machine_of_step(connection, step).await? == Some(self.machine))
    }
}

async fn machine_of_step(
    connection: &mut PgConnection,
    step: StepId,
) -> Result<Option<MachineId>, StoreError> {
    let row: Option<(Uuid,)> =
        sqlx::query_as("SELECT j.machine_id FROM steps s JOIN jobs j ON j.id = s.job_id WHERE s.id = $1")
            .bind(step.0)
            .fetch_optional(connection)
            .await
            .during("find the machine of a step")?;
    Ok(row.map(|(machine,)| MachineId(machine)))
}
