use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_gateway::{CataloguedPoint, PointLocation};
use holdfast_proto::ids::{MachineId, PointId};

use crate::domain::job::Consistency;
use crate::domain::point::{LockMode, PointState};

use super::page::{Page, PageSize, Sorted, time_key};
use super::{During, Store, StoreError, audit};

#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct PointRow {
    pub(crate) id: Uuid,
    pub(crate) machine_id: Uuid,
    pub(crate) machine_name: String,
    pub(crate) seq: i64,
    pub(crate) hash: [u8; 32],
    pub(crate) decisions: i32,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) consistency: Consistency,
    pub(crate) state: PointState,
    pub(crate) disks: Json<Vec<PointDiskRow>>,
    pub(crate) deleted_at: Option<DateTime<Utc>>,
    pub(crate) purge_after: Option<DateTime<Utc>>,
    pub(crate) lock_mode: Option<LockMode>,
    pub(crate) locked_until: Option<DateTime<Utc>>,
    pub(crate) retained_mode: Option<LockMode>,
    pub(crate) retained_until: Option<DateTime<Utc>>,
}

/// Which points are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Kept,
    /// Those that can be undeleted as well.
    WithDeleted,
}

/// A point as retention sees it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct RetainedRow {
    pub(crate) id: Uuid,
    pub(crate) machine_id: Uuid,
    pub(crate) seq: i64,
    pub(crate) hash: [u8; 32],
    pub(crate) decisions: i32,
    /// The slot that it is for, or when its job started.
    pub(crate) serves_until: DateTime<Utc>,
    /// Locked, or undeleted not long ago.
    pub(crate) is_spared: bool,
    pub(crate) is_whole: bool,
    pub(crate) disk_names: Vec<String>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct PointDiskRow {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) stored_bytes: u64,
}

impl PointRow {
    pub(crate) fn catalogued(&self) -> CataloguedPoint {
        catalogued(self.machine_id, self.seq, self.hash, self.decisions)
    }
}

impl RetainedRow {
    pub(crate) fn catalogued(&self) -> CataloguedPoint {
        catalogued(self.machine_id, self.seq, self.hash, self.decisions)
    }
}

fn catalogued(machine: Uuid, seq: i64, hash: [u8; 32], decisions: i32) -> CataloguedPoint {
    let location = PointLocation { machine: MachineId(machine), seq: u64::try_from(seq).unwrap_or(0) };
    CataloguedPoint { location, hash, decisions: u32::try_from(decisions).unwrap_or(0) }
}

impl Sorted for PointRow {
    fn sort_key(&self) -> String {
        time_key(self.created_at, self.id)
    }
}

impl Store {
    /// Lists points, newest first.
    pub(crate) async fn list_points(
        &self,
        machine: Option<Uuid>,
        shown: Shown,
        before: Option<(DateTime<Utc>, Uuid)>,
        size: PageSize,
    ) -> Result<Page<PointRow>, StoreError> {
        let rows = sqlx::query_as(concat!(
            include_str!("sql/point.sql"),
            "WHERE ($1::uuid IS NULL OR p.machine_id = $1)
               AND ($2::timestamptz IS NULL OR (p.created_at, p.id) < ($2, $3::uuid))
               AND (p.state IN ('listed', 'damaged') OR ($5 AND p.state = 'soft_deleted'))
             ORDER BY p.created_at DESC, p.id DESC LIMIT $4"
        ))
        .bind(machine)
        .bind(before.map(|(at, _)| at))
        .bind(before.map(|(_, id)| id))
        .bind(size.limit())
        .bind(shown == Shown::WithDeleted)
        .fetch_all(&self.pool)
        .await
        .during("list points")?;
        Ok(size.page(rows))
    }

    /// Finds a point by its id, or as `MACHINE@latest`.
    pub(crate) async fn resolve_point(&self, spec: &str) -> Result<PointRow, StoreError> {
        let unknown = || StoreError::NotFound { noun: "point", name: spec.to_owned() };
        let id = match spec.strip_suffix("@latest") {
            Some(machine) => {
                let machine = self.find_machine(machine).await?.facts;
                self.latest_point(machine.id).await?.ok_or_else(unknown)?
            }
            None => spec.parse::<PointId>().map_err(|_| unknown())?,
        };
        self.find_point(id).await
    }

    /// Any that is not purged.
    pub(crate) async fn find_point(&self, point: PointId) -> Result<PointRow, StoreError> {
        sqlx::query_as(concat!(include_str!("sql/point.sql"), "WHERE p.id = $1 AND p.state <> 'purged'"))
            .bind(point.0)
            .fetch_optional(&self.pool)
            .await
            .during("find a point")?
            .ok_or_else(|| StoreError::NotFound { noun: "point", name: point.to_string() })
    }

    /// Sequence numbers of a machine's points, the purged ones too, and how many decisions about each are known.
    pub(crate) async fn known_points(&self, machine: MachineId) -> Result<Vec<(i64, i32)>, StoreError> {
        sqlx::query_as("SELECT seq, decisions FROM points WHERE machine_id = $1")
            .bind(machine.0)
            .fetch_all(&self.pool)
            .await
            .during("list a machine's points")
    }

    /// The points of a machine that restore, for its policy's retention; oldest first. Those that were undeleted within `window` are spared.
    pub(crate) async fn retained_points(
        &self,
        machine: MachineId,
        window: Duration,
    ) -> Result<Vec<RetainedRow>, StoreError> {
        sqlx::query_as(
            "SELECT id, machine_id, seq, hash, decisions, serves_until, is_whole,
                    coalesce(locked_until > now(), false) OR coalesce(undeleted_at > now() - $2::interval, false) AS is_spared,
                    ARRAY(SELECT disk ->> 'name' FROM jsonb_array_elements(disks) disk) AS disk_names
             FROM points WHERE machine_id = $1 AND state = 'listed' ORDER BY seq",
        )
        .bind(machine.0)
        .bind(window)
        .fetch_all(&self.pool)
        .await
        .during("list the points that a policy may keep")
    }

    /// Name and labels of a machine about whose points a policy may decide. Not of one that was removed. Not of one without an agent: it was
    /// found in the vault and may have been removed before, and nobody has said that its name means this machine now.
    pub(crate) async fn retained_machine(
        &self,
        machine: MachineId,
    ) -> Result<Option<(String, BTreeMap<String, String>)>, StoreError> {
        let row: Option<(String, Json<BTreeMap<String, String>>)> = sqlx::query_as(
            "SELECT m.name, m.labels FROM machines m JOIN agents a ON a.machine_id = m.id
             WHERE m.id = $1 AND m.removed_at IS NULL",
        )
        .bind(machine.0)
        .fetch_optional(&self.pool)
        .await
        .during("see whether a machine has a policy's retention")?;
        Ok(row.map(|(name, Json(labels))| (name, labels)))
    }

    /// Machine and sequence number of every point that is not purged.
    pub(crate) async fn catalogued_points(&self) -> Result<Vec<(Uuid, i64)>, StoreError> {
        sqlx::query_as("SELECT machine_id, seq FROM points WHERE state <> 'purged'")
            .fetch_all(&self.pool)
            .await
            .during("list all points")
    }

    /// The newest point of a machine that restores: the last one that was committed, whatever the clocks of the gateways said.
    async fn latest_point(&self, machine: Uuid) -> Result<Option<PointId>, StoreError> {
        let row: Option<(Uuid,)> = sqlx::query_as(
            "SELECT id FROM points WHERE machine_id = $1 AND state = 'listed' ORDER BY seq DESC LIMIT 1",
        )
        .bind(machine)
        .fetch_optional(&self.pool)
        .await
        .during("find the latest point")?;
        Ok(row.map(|(id,)| PointId(id)))
    }

    /// Written before the first byte of a restore.
    pub(crate) async fn record_restore(
        &self,
        operator: &str,
        point: PointId,
        disk: &str,
    ) -> Result<(), StoreError> {
        let (operator, disk) = (operator.to_owned(), disk.to_owned());
        self.transaction("record a restore", move |connection| {
            Box::pin(async move {
                audit::record(
                    connection,
                    &operator,
                    "point.restore",
                    &point.to_string(),
                    json!({ "disk": disk }),
                )
                .await
            })
        })
        .await
    }
}
