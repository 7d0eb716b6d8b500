use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use super::page::{Page, PageSize};
use super::{During, Store, StoreError};

#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct MachineRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) labels: Json<BTreeMap<String, String>>,
    pub(crate) os: String,
    pub(crate) quarantine: Option<String>,
    pub(crate) enrolled_at: DateTime<Utc>,
    pub(crate) agent_version: String,
    pub(crate) online: bool,
    pub(crate) last_seen_at: Option<DateTime<Utc>>,
    pub(crate) disks: Json<Vec<DiskRow>>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct DiskRow {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
}

impl Store {
    /// Finds a machine by its id or unique name.
    pub(crate) async fn find_machine(&self, name_or_id: &str) -> Result<MachineRow, StoreError> {
        sqlx::query_as(include_str!("sql/find_machine.sql"))
            .bind(Uuid::parse_str(name_or_id).ok())
            .bind(name_or_id)
            .fetch_optional(&self.pool)
            .await
            .during("find a machine")?
            .ok_or_else(|| StoreError::NotFound { noun: "machine", name: name_or_id.to_owned() })
    }

    /// Lists machines by name, after the name `after`.
    pub(crate) async fn list_machines(
        &self,
        after: Option<&str>,
        size: PageSize,
    ) -> Result<Page<MachineRow>, StoreError> {
        let rows = sqlx::query_as(include_str!("sql/list_machines.sql"))
            .bind(after.unwrap_or(""))
            .bind(size.limit())
            .fetch_all(&self.pool)
            .await
            .during("list machines")?;
        Ok(size.page(rows, |row: &MachineRow| row.name.clone()))
    }

    /// Stops everything on a machine until an operator decides.
    pub(crate) async fn quarantine(&self, machine: MachineId, reason: &str) -> Result<(), StoreError> {
        let reason = reason.to_owned();
        self.transaction("quarantine a machine", move |connection| {
            Box::pin(async move {
                let done =
                    sqlx::query("UPDATE machines SET quarantine = $2 WHERE id = $1 AND quarantine IS NULL")
                        .bind(machine.0)
                        .bind(&reason)
                        .execute(&mut *connection)
                        .await
                        .during("quarantine a machine")?;
                if done.rows_affected() == 1 {
                    let detail = serde_json::json!({ "reason": reason });
                    super::audit::record(
                        connection,
                        "system",
                        "machine.quarantine",
                        &machine.to_string(),
                        detail,
                    )
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }
}
