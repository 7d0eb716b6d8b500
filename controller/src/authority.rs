use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use serde_json::json;
use tonic::{Code, Status};
use uuid::Uuid;

use holdfast_gateway::{
    Authority, CataloguedPoint, CommitBegun, Decided, FoundMachine, KeptPoint, PointLocation, TransferGrant,
    UnsettledCommit, Verified,
};
use holdfast_proto::error::{ErrorDetailExt as _, system_error, user_error};
use holdfast_proto::ids::{AgentId, MachineId, PointId, StepId};
use holdfast_vault_engine as vault;

use crate::app::App;
use crate::domain::error::JobError;
use crate::domain::job::Consistency;
use crate::domain::point::{LockMode, PointState};
use crate::domain::snapshot::DiskRow;
use crate::store::StoreError;
use crate::store::commit::{Begun, NewCommit, NewPoint};
use crate::store::damage::KeptRow;
use crate::store::point::PointDiskRow;
use crate::store::standing::{DecidedRow, NewPointState, NewStanding, UNDELETE};

/// Answers the gateway's questions from the catalogue.
#[derive(Clone, Debug)]
pub(crate) struct StoreAuthority(pub(crate) Arc<App>);

#[tonic::async_trait]
impl Authority for StoreAuthority {
    async fn authorise_transfer(
        &self,
        agent: AgentId,
        step: StepId,
        attempt: i64,
    ) -> Result<TransferGrant, Status> {
        let context = self.0.store.authorise_transfer(agent, step, attempt).await?;
        Ok(TransferGrant {
            machine: context.machine,
            machine_name: context.machine_name,
            consistency: match context.consistency {
                Consistency::Application => vault::Consistency::Application,
                Consistency::FileSystem => vault::Consistency::FileSystem,
                Consistency::Crash => vault::Consistency::Crash,
            },
            taken_at: context.taken_at,
            snapshot_id: context.snapshot,
            disks: context
                .disks
                .into_iter()
                .map(|disk| vault::DiskSpec { name: disk.name, size_bytes: disk.size_bytes })
                .collect(),
            last_seq: u64::try_from(context.last_seq).unwrap_or(0),
            damaged: context.damaged.into_iter().filter_map(|seq| u64::try_from(seq).ok()).collect(),
        })
    }

    async fn begin_commit(
        &self,
        step: StepId,
        attempt: i64,
        seq: u64,
        base: Option<u64>,
    ) -> Result<CommitBegun, Status> {
        let lease = self.0.timing.agent_lost_after;
        let commit = NewCommit { seq: signed(seq)?, base: base.map(signed).transpose()? };
        Ok(match self.0.store.begin_commit(step, attempt, commit, lease).await? {
            Begun::Yes => CommitBegun::Lease(lease),
            Begun::BaseDamaged => CommitBegun::BaseDamaged,
        })
    }

    async fn record_point(&self, point: &vault::Point) -> Result<(), Status> {
        let new = NewPoint {
            id: PointId(point.id),
            machine: MachineId(point.machine),
            seq: signed(point.seq)?,
            hash: point.hash,
            created_at: point.created_at,
            consistency: match point.consistency {
                vault::Consistency::Application => Consistency::Application,
                vault::Consistency::FileSystem => Consistency::FileSystem,
                vault::Consistency::Crash => Consistency::Crash,
            },
            step: StepId(point.step_id),
            attempt: point.attempt,
            disks: point
                .disks
                .iter()
                .map(|disk| PointDiskRow {
                    name: disk.name.clone(),
                    size_bytes: disk.size_bytes,
                    read_bytes: disk.read_bytes,
                    changed_bytes: disk.changed_bytes,
                    sent_bytes: disk.sent_bytes,
                    stored_bytes: disk.stored_bytes,
                })
                .collect(),
        };
        self.0.store.record_point(new, self.0.timing.retry_delay).await?;
        self.0.sessions.wake();
        Ok(())
    }

    async fn find_point(&self, spec: &str) -> Result<CataloguedPoint, Status> {
        let row = self.0.store.resolve_point(spec).await?;
        if row.state == PointState::SoftDeleted {
            return Err(user_error("point_deleted", "the point was deleted")
                .action(format!("take that back first: `holdfast point undelete {}`", row.id))
                .into_status(Code::FailedPrecondition));
        }
        Ok(row.catalogued())
    }

    async fn record_restore(&self, operator: &str, point: PointId, disk: &str) -> Result<(), Status> {
        self.0.store.record_restore(operator, point, disk).await.map_err(Status::from)
    }

    async fn record_healing(&self, step: StepId, damaged: PointLocation) -> Result<(), Status> {
        let known = self.0.store.damage(damaged.machine, signed(damaged.seq)?).await?;
        let point = known.point.map_or_else(|| format!("number {}", damaged.seq), |id| id.to_string());
        let warning = JobError::full_after_damage(&known.machine_name, &point, known.damage.as_deref());
        self.0.store.warn_job(step, warning).await.map_err(Status::from)
    }

    async fn is_live(&self, step: StepId, attempt: i64) -> Result<bool, Status> {
        self.0.store.is_live(step, attempt).await.map_err(Status::from)
    }

    async fn unsettled_commits(&self) -> Result<Vec<UnsettledCommit>, Status> {
        let rows = self.0.store.unsettled_commits().await?;
        rows.into_iter()
            .map(|row| {
                let seq = u64::try_from(row.seq).unwrap_or(0);
                Ok(UnsettledCommit { machine: row.machine, step: row.step, attempt: row.attempt, seq })
            })
            .collect()
    }

    async fn commit_aborted(&self, step: StepId, attempt: i64, seq: u64) -> Result<(), Status> {
        let (lease, retry_delay) = (self.0.timing.agent_lost_after, self.0.timing.retry_delay);
        self.0.store.commit_aborted(step, attempt, signed(seq)?, lease, retry_delay).await?;
        self.0.sessions.wake();
        Ok(())
    }

    async fn known_points(&self, machine: MachineId) -> Result<BTreeMap<u64, u32>, Status> {
        let points = self.0.store.known_points(machine).await?;
        let known = |(seq, decisions)| Some((u64::try_from(seq).ok()?, u32::try_from(decisions).ok()?));
        Ok(points.into_iter().filter_map(known).collect())
    }

    async fn kept_points(&self, machine: MachineId) -> Result<Vec<KeptPoint>, Status> {
        let points = self.0.store.kept_points(machine).await?;
        let kept = |row: KeptRow| {
            Some(KeptPoint {
                id: PointId(row.id),
                machine_name: row.machine_name,
                seq: u64::try_from(row.seq).ok()?,
                hash: row.hash,
                decisions: u32::try_from(row.decisions).ok()?,
                is_damaged: row.is_damaged,
                damages: u32::try_from(row.damages).ok()?,
            })
        };
        Ok(points.into_iter().filter_map(kept).collect())
    }

    async fn catalogued_points(&self) -> Result<BTreeMap<Uuid, Vec<u64>>, Status> {
        let mut all: BTreeMap<Uuid, Vec<u64>> = BTreeMap::new();
        for (machine, seq) in self.0.store.catalogued_points().await? {
            all.entry(machine).or_default().push(u64::try_from(seq).unwrap_or(0));
        }
        Ok(all)
    }

    async fn record_standing(&self, decided: &Decided) -> Result<(), Status> {
        let standing = vault::Standing::after(&decided.events);
        let new = NewStanding {
            machine: decided.machine,
            seq: signed(decided.seq)?,
            state: match &standing.state {
                vault::PointState::Listed => NewPointState::Kept,
                vault::PointState::SoftDeleted(deletion) => NewPointState::SoftDeleted {
                    at: deletion.at,
                    purge_after: TimeDelta::from_std(deletion.window)
                        .ok()
                        .and_then(|window| deletion.at.checked_add_signed(window))
                        .unwrap_or(deletion.at),
                },
                vault::PointState::Purged => NewPointState::Purged,
            },
            decisions: i32::try_from(standing.decisions).unwrap_or(i32::MAX),
            lock: standing.lock.map(|lock| (lock_mode(lock.mode), lock.until)),
            events: decided.events.iter().map(decided_row).collect(),
        };
        self.0.store.record_standing(new).await.map_err(Status::from)
    }

    async fn unenforced_locks(&self) -> Result<Vec<PointLocation>, Status> {
        let rows = self.0.store.unenforced_locks().await?;
        let location = |(machine, seq): (Uuid, i64)| PointLocation {
            machine: MachineId(machine),
            seq: u64::try_from(seq).unwrap_or(0),
        };
        Ok(rows.into_iter().map(location).collect())
    }

    async fn record_retention(
        &self,
        point: PointLocation,
        retention: vault::Retention,
    ) -> Result<(), Status> {
        let lock = (lock_mode(retention.mode), retention.until);
        self.0.store.record_retention(point.machine, signed(point.seq)?, lock).await.map_err(Status::from)
    }

    async fn add_machine(&self, machine: &FoundMachine, actor: &str) -> Result<bool, Status> {
        let disks: Vec<DiskRow> = machine
            .disks
            .iter()
            .map(|disk| DiskRow { name: disk.name.clone(), size_bytes: disk.size_bytes })
            .collect();
        let added = self.0.store.add_found_machine(machine.id, &machine.name, disks, actor).await?;
        Ok(added)
    }

    async fn record_verified(&self, verified: &Verified) -> Result<(), Status> {
        let Verified { machine, damaged, sound, .. } = verified;
        for (seq, reason) in damaged {
            match self.0.store.mark_damaged(*machine, signed(*seq)?, reason).await {
                // The resolver tells of a machine that only the vault knows.
                Err(StoreError::NotFound { .. }) => return Ok(()),
                marked => marked?,
            };
        }
        let sound = sound
            .iter()
            .map(|(seq, damages)| Ok((signed(*seq)?, i32::try_from(*damages).unwrap_or(i32::MAX))))
            .collect::<Result<Vec<_>, Status>>()?;
        self.0.store.mark_sound(*machine, sound, &verified.actor).await.map_err(Status::from)
    }

    async fn mark_damaged(&self, point: PointLocation, reason: &str) -> Result<bool, Status> {
        self.0.store.mark_damaged(point.machine, signed(point.seq)?, reason).await.map_err(Status::from)
    }
}

fn decided_row(event: &vault::Event) -> DecidedRow {
    let instant = |micros| DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH);
    let at = instant(event.at);
    let (action, detail) = match event.action {
        vault::Action::Delete { window_seconds } => {
            ("point.delete", json!({ "decided_at": at, "window_seconds": window_seconds }))
        }
        vault::Action::Undelete => (UNDELETE, json!({ "decided_at": at })),
        vault::Action::Lock { mode, until } => (
            "point.lock",
            json!({ "decided_at": at, "mode": lock_mode(mode).as_str(), "until": instant(until) }),
        ),
        vault::Action::Unlock => ("point.unlock", json!({ "decided_at": at })),
        vault::Action::Purge => ("point.purge", json!({ "decided_at": at })),
    };
    let number = i32::try_from(event.number).unwrap_or(i32::MAX);
    DecidedRow { number, actor: event.actor.clone(), action, detail }
}

fn lock_mode(mode: vault::LockMode) -> LockMode {
    match mode {
        vault::LockMode::Governance => LockMode::Governance,
        vault::LockMode::Compliance => LockMode::Compliance,
    }
}

fn signed(seq: u64) -> Result<i64, Status> {
    i64::try_from(seq).map_err(|_| {
        system_error("sequence_exhausted", "the machine's sequence number is too large")
            .into_status(Code::Internal)
    })
}
