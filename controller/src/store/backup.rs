//! How backups begin, whoever wants them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{JobId, MachineId, StepId};

use crate::domain::error::JobError;
use crate::domain::job::Consistency;
use crate::domain::policy::Policy;

use super::request::{self, RequestKey};
use super::{During, Store, StoreError, audit};

/// Within so long a backup of a machine without a policy is to be complete; one that is not started by then expires.
const COMPLETE_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// A backup that somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct NewBackup {
    pub(crate) machine: MachineId,
    /// Empty: those of the policy, or all.
    pub(crate) disk_names: Vec<String>,
    pub(crate) requested_by: String,
    pub(crate) request: Option<RequestKey>,
    /// The policy whose rules it follows.
    pub(crate) policy: Option<Policy>,
}

/// What backups are made for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Occasion<'o> {
    Slot {
        policy: &'o Policy,
        at: DateTime<Utc>,
    },
    /// By the rules of the policy, if there is one.
    Asked {
        policy: Option<&'o Policy>,
        by: &'o str,
        disk_names: &'o [String],
    },
}

/// What became of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) queued: u64,
    /// An earlier backup of the same policy was not over.
    pub(crate) overlapped: u64,
}

impl<'o> Occasion<'o> {
    /// Empty: all.
    fn disk_names(self) -> &'o [String] {
        match self {
            Self::Slot { policy, .. } | Self::Asked { policy: Some(policy), disk_names: [], .. } => {
                &policy.spec.disks
            }
            Self::Asked { disk_names, .. } => disk_names,
        }
    }
}

impl Store {
    /// Queues a backup with its three steps; answers the first job of a repeated request.
    ///
    /// Disks that are asked for must be known. Those that a policy names need not: whether they are there when the backup begins is for the
    /// agent to say.
    pub(crate) async fn create_backup(&self, new: NewBackup) -> Result<JobId, StoreError> {
        self.transaction("queue a backup", move |connection| {
            Box::pin(async move {
                let job = JobId::generate();
                if let Some(key) = new.request
                    && let Some(first) = request::claim(connection, key, job.0).await?
                {
                    return Ok(JobId(first));
                }
                check_disks(connection, new.machine, &new.disk_names).await?;
                let occasion = Occasion::Asked {
                    policy: new.policy.as_ref(),
                    by: &new.requested_by,
                    disk_names: &new.disk_names,
                };
                let begun = begin(connection, occasion, &[(new.machine, job)]).await?;
                if begun == Begun::default() {
                    return Err(why_none(connection, new.machine).await?);
                }
                let detail = json!({ "machine": new.machine.to_string(), "disks": occasion.disk_names() });
                audit::record(connection, &new.requested_by, "backup.start", &job.to_string(), detail)
                    .await?;
                Ok(job)
            })
        })
        .await
    }
}

/// Makes the jobs and their steps of all these machines that may be backed up.
pub(super) async fn begin(
    connection: &mut PgConnection,
    occasion: Occasion<'_>,
    machines: &[(MachineId, JobId)],
) -> Result<Begun, StoreError> {
    let steps = || machines.iter().map(|_| StepId::generate().0).collect::<Vec<Uuid>>();
    let (slot, policy, requested_by) = match occasion {
        Occasion::Slot { policy, at } => (Some(at), Some(policy), format!("policy:{}", policy.name)),
        Occasion::Asked { policy, by, .. } => (None, policy, by.to_owned()),
    };
    let spec = policy.map(|policy| &policy.spec);
    let within = spec.map_or(COMPLETE_WITHIN, |spec| spec.complete_within);
    let minimum = spec.map_or(Consistency::FileSystem, |spec| spec.minimum);
    let (queued, overlapped): (i64, i64) = sqlx::query_as(include_str!("sql/begin_backups.sql"))
        .bind(machines.iter().map(|(machine, _)| machine.0).collect::<Vec<Uuid>>())
        .bind(machines.iter().map(|(_, job)| job.0).collect::<Vec<Uuid>>())
        .bind(steps())
        .bind(steps())
        .bind(steps())
        .bind(policy.map(|policy| policy.id))
        .bind(policy.map(|policy| policy.name.as_str()))
        .bind(policy.map(|policy| policy.revision))
        .bind(slot)
        .bind(TimeDelta::from_std(within).unwrap_or(TimeDelta::days(31)))
        .bind(minimum.as_str())
        .bind(occasion.disk_names())
        .bind(Json(JobError::overlap()))
        .bind(requested_by)
        .fetch_one(connection)
        .await
        .during("queue backups")?;
    Ok(Begun {
        queued: u64::try_from(queued).unwrap_or(0),
        overlapped: u64::try_from(overlapped).unwrap_or(0),
    })
}

async fn check_disks(
    connection: &mut PgConnection,
    machine: MachineId,
    names: &[String],
) -> Result<(), StoreError> {
    let unknown: Option<(String,)> = sqlx::query_as(
        "SELECT name FROM unnest($2::text[]) WITH ORDINALITY AS asked (name, place)
         WHERE NOT EXISTS (SELECT 1 FROM disks d WHERE d.machine_id = $1 AND d.name = asked.name) ORDER BY place LIMIT 1",
    )
    .bind(machine.0)
    .bind(names)
    .fetch_optional(connection)
    .await
    .during("check the names of disks")?;
    unknown.map_or(Ok(()), |(name,)| Err(StoreError::NoSuchDisk { name }))
}

/// Why nothing can be begun for a machine.
async fn why_none(connection: &mut PgConnection, machine: MachineId) -> Result<StoreError, StoreError> {
    let row: Option<(String, bool, Option<String>)> =
        sqlx::query_as("SELECT name, removed_at IS NOT NULL, quarantine FROM machines WHERE id = $1")
            .bind(machine.0)
            .fetch_optional(connection)
            .await
            .during("see why there is no backup")?;
    Ok(match row {
        None => StoreError::NotFound { noun: "machine", name: machine.to_string() },
        Some((name, true, _)) => StoreError::MachineRemoved { id: machine.0, name },
        Some((_, false, Some(reason))) => StoreError::MachineQuarantined { reason },
        Some((name, false, None)) => StoreError::NoAgent { name },
    })
}
