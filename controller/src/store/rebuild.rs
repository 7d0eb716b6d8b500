//! Machines that only the vault knows.

use serde_json::json;

use holdfast_proto::ids::MachineId;

use crate::domain::snapshot::DiskRow;

use super::session::replace_disks;
use super::{During, Store, StoreError, audit};

/// Of a name that is taken so much is kept, with some of the id behind it: names have at most 63 characters.
const KEPT: usize = 54;

impl Store {
    /// Adds a machine without an agent, unless it is there; answers whether it was added.
    pub(crate) async fn add_found_machine(
        &self,
        machine: MachineId,
        name: &str,
        disks: Vec<DiskRow>,
        actor: &str,
    ) -> Result<bool, StoreError> {
        let (name, actor) = (name.to_owned(), actor.to_owned());
        let id = machine.to_string();
        let other = format!("{}-{}", name.chars().take(KEPT).collect::<String>(), &id[id.len() - 8..]);
        self.transaction("add a machine that the vault knows", move |connection| {
            Box::pin(async move {
                let added: Option<(String,)> = sqlx::query_as(
                    "INSERT INTO machines (id, name)
                     VALUES ($1, CASE WHEN EXISTS (SELECT 1 FROM machines WHERE name = $2 AND removed_at IS NULL) THEN $3 ELSE $2 END)
                     ON CONFLICT (id) DO NOTHING RETURNING name",
                )
                .bind(machine.0)
                .bind(&name)
                .bind(&other)
                .fetch_optional(&mut *connection)
                .await
                .during("add a machine")?;
                let Some((name,)) = added else { return Ok(false) };
                sqlx::query("INSERT INTO machine_slots (machine_id) VALUES ($1)")
                    .bind(machine.0)
                    .execute(&mut *connection)
                    .await
                    .during("create a machine's slot")?;
                replace_disks(connection, machine, &disks).await?;
                let detail = json!({ "name": name });
                audit::record(connection, &actor, "machine.rebuild", &machine.to_string(), detail).await?;
                Ok(true)
            })
        })
        .await
    }
}
