mod removal;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use crate::domain::condition::MachineView;
use crate::domain::policy::is_bound_alike;
use crate::domain::snapshot::DiskRow;

use super::page::{Page, PageSize, Sorted};
use super::{During, Store, StoreError, audit, policy};

#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct MachineRow {
    #[sqlx(flatten)]
    pub(crate) facts: FleetRow,
    pub(crate) os: String,
    pub(crate) enrolled_at: DateTime<Utc>,
    pub(crate) removed_at: Option<DateTime<Utc>>,
    pub(crate) agent_version: String,
    pub(crate) disks: Json<Vec<DiskRow>>,
    /// When the last verification began that came to its end.
    pub(crate) verified_at: Option<DateTime<Utc>>,
    /// Since when it has something that was not read since; `None` without points.
    pub(crate) unverified_since: Option<DateTime<Utc>>,
    /// Points that were found damaged and are not deleted.
    pub(crate) damaged_points: i64,
}

/// What decides on the protection of a machine that is not removed, for the whole fleet at once.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct FleetRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) labels: Json<BTreeMap<String, String>>,
    pub(crate) labelled_at: DateTime<Utc>,
    pub(crate) quarantine: Option<String>,
    pub(crate) has_agent: bool,
    pub(crate) online: bool,
    pub(crate) last_seen_at: Option<DateTime<Utc>>,
    pub(crate) last_point_at: Option<DateTime<Utc>>,
    /// The newest slot that a point of it serves.
    pub(crate) served_until: Option<DateTime<Utc>>,
}

impl FleetRow {
    pub(crate) fn view(&self) -> MachineView<'_> {
        MachineView {
            id: self.id,
            name: &self.name,
            labels: &self.labels,
            labelled_at: self.labelled_at,
            quarantine: self.quarantine.as_deref(),
            removed_at: None,
            has_agent: self.has_agent,
            online: self.online,
            last_seen_at: self.last_seen_at,
            served_until: self.served_until,
        }
    }
}

/// Which machines are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Living,
    /// Those that were removed as well.
    All,
}

/// Labels to set, and keys to remove.
#[derive(Clone, Debug, Default)]
pub(crate) struct LabelChange {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) remove: Vec<String>,
}

/// Most labels of a machine.
pub(crate) const MAX_LABELS: usize = 64;

impl Sorted for MachineRow {
    fn sort_key(&self) -> String {
        format!("{} {}", self.facts.name, self.facts.id)
    }
}

/// The name and id that a page comes after.
pub(crate) fn parse_name_key(key: &str) -> Option<(String, Uuid)> {
    match key.split_once(' ') {
        Some((name, id)) => Some((name.to_owned(), id.parse().ok()?)),
        // Of a controller that knows of no removals. Rather is one told twice than left out.
        None => Some((key.to_owned(), Uuid::nil())),
    }
}

impl MachineRow {
    pub(crate) fn view(&self) -> MachineView<'_> {
        MachineView { removed_at: self.removed_at, ..self.facts.view() }
    }

    /// Of a removed machine nothing may be done but read.
    pub(crate) fn living(self) -> Result<Self, StoreError> {
        match self.removed_at {
            None => Ok(self),
            Some(_) => Err(StoreError::MachineRemoved { id: self.facts.id, name: self.facts.name }),
        }
    }
}

impl Store {
    /// Finds a machine by its id or name: of several that had the name the one that has it, or else had it last.
    pub(crate) async fn find_machine(&self, name_or_id: &str) -> Result<MachineRow, StoreError> {
        sqlx::query_as(concat!(
            include_str!("sql/machine.sql"),
            "WHERE m.id = $1 OR m.name = $2 ORDER BY m.removed_at DESC NULLS FIRST LIMIT 1"
        ))
        .bind(Uuid::parse_str(name_or_id).ok())
        .bind(name_or_id)
        .fetch_optional(&self.pool)
        .await
        .during("find a machine")?
        .ok_or_else(|| StoreError::NotFound { noun: "machine", name: name_or_id.to_owned() })
    }

    /// Lists machines by name.
    pub(crate) async fn list_machines(
        &self,
        shown: Shown,
        after: Option<(String, Uuid)>,
        size: PageSize,
    ) -> Result<Page<MachineRow>, StoreError> {
        let (after_name, after_id) = after.unwrap_or_default();
        let rows = sqlx::query_as(concat!(
            include_str!("sql/machine.sql"),
            "WHERE (m.name, m.id) > ($1, $2) AND ($4 OR m.removed_at IS NULL) ORDER BY m.name, m.id LIMIT $3"
        ))
        .bind(after_name)
        .bind(after_id)
        .bind(size.limit())
        .bind(shown == Shown::All)
        .fetch_all(&self.pool)
        .await
        .during("list machines")?;
        Ok(size.page(rows))
    }

    /// Every machine that is not removed, by name.
    pub(crate) async fn fleet(&self) -> Result<Vec<FleetRow>, StoreError> {
        sqlx::query_as(include_str!("sql/fleet.sql")).fetch_all(&self.pool).await.during("read the fleet")
    }

    /// Changes labels; what is so already changes nothing.
    pub(crate) async fn label_machine(
        &self,
        machine: MachineId,
        change: LabelChange,
        operator: &str,
    ) -> Result<(), StoreError> {
        let operator = operator.to_owned();
        self.transaction("label a machine", move |connection| {
            Box::pin(async move {
                let row: Option<(String, Json<BTreeMap<String, String>>)> =
                    sqlx::query_as("SELECT name, labels FROM machines WHERE id = $1 FOR UPDATE")
                        .bind(machine.0)
                        .fetch_optional(&mut *connection)
                        .await
                        .during("read a machine's labels")?;
                let Some((name, Json(before))) = row else {
                    return Err(StoreError::NotFound { noun: "machine", name: machine.to_string() });
                };
                let mut labels = before.clone();
                labels.retain(|key, _| !change.remove.contains(key));
                labels.extend(change.set);
                if labels.len() > MAX_LABELS {
                    return Err(StoreError::TooManyLabels);
                }
                if labels == before {
                    return Ok(());
                }
                // What a policy wanted of it before, it still does, unless it is another one's now.
                let is_alike = is_bound_alike(&name, &before, &labels, &policy::targets(connection).await?);
                sqlx::query(
                    "UPDATE machines SET labels = $2, labelled_at = CASE WHEN $3 THEN labelled_at ELSE now() END
                     WHERE id = $1",
                )
                .bind(machine.0)
                .bind(Json(&labels))
                .bind(is_alike)
                .execute(&mut *connection)
                .await
                .during("label a machine")?;
                let detail = serde_json::json!({ "before": before, "after": labels });
                audit::record(connection, &operator, "machine.label", &machine.to_string(), detail).await
            })
        })
        .await
    }

    /// Lets a quarantined machine work again; one that is not quarantined stays as it is.
    pub(crate) async fn lift_quarantine(&self, machine: MachineId, operator: &str) -> Result<(), StoreError> {
        let operator = operator.to_owned();
        self.transaction("lift a quarantine", move |connection| {
            Box::pin(async move {
                let lifted: Option<(String,)> = sqlx::query_as(
                    "UPDATE machines m SET quarantine = NULL FROM machines old
                     WHERE m.id = $1 AND old.id = m.id AND m.quarantine IS NOT NULL RETURNING old.quarantine",
                )
                .bind(machine.0)
                .fetch_optional(&mut *connection)
                .await
                .during("lift a quarantine")?;
                let Some((reason,)) = lifted else { return Ok(()) };
                let detail = serde_json::json!({ "reason": reason });
                audit::record(connection, &operator, "machine.lift_quarantine", &machine.to_string(), detail)
                    .await
            })
        })
        .await
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
                    audit::record(connection, "system", "machine.quarantine", &machine.to_string(), detail)
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }
}
