//! The catalogue from nothing but the vault.

use std::cmp::Reverse;

use tonic::Status;
use tracing::info;
use uuid::Uuid;

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{DiskSpec, Point, PointStatus};

use crate::error::status_of;
use crate::retry::within;
use crate::{FoundMachine, Gateway};

/// What came of rebuilding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Machines that have readable points.
    pub machines: u64,
    pub added_machines: u64,
    pub added_points: u64,
    /// Points that cannot be read, and so have no place in the catalogue.
    pub damaged_points: u64,
}

impl Gateway {
    /// Adds the machines and points of the vault that the catalogue does not have, and where those points stand. What is there
    /// stays. Idempotent.
    ///
    /// # Errors
    /// If vault or catalogue do not answer; what was added until then stays.
    pub async fn rebuild_catalogue(&self, actor: &str) -> Result<Rebuilt, Status> {
        let inner = &self.inner;
        let failed = |error| status_of(&error);
        let mut rebuilt = Rebuilt::default();
        let mut found: Vec<Point> = Vec::new();
        for machine in inner.vault.machines().await.map_err(failed)? {
            let statuses = inner.vault.points(machine).await.map_err(failed)?;
            let mut newest = None;
            for status in statuses {
                match status {
                    PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => newest = Some(point),
                    PointStatus::Damaged { .. } => rebuilt.damaged_points += 1,
                }
            }
            found.extend(newest);
        }
        rebuilt.machines = found.len() as u64;
        // Of several that had the same name the one that lived last has it again.
        found.sort_by_key(|point| Reverse(point.created_at));
        for newest in found {
            rebuilt.added_machines += u64::from(self.add_machine(&newest, actor).await?);
            let before = self.count(newest.machine).await?;
            self.resolve_machine(newest.machine).await?;
            rebuilt.added_points += self.count(newest.machine).await?.saturating_sub(before);
        }
        info!(actor, ?rebuilt, "the catalogue is rebuilt");
        Ok(rebuilt)
    }

    async fn add_machine(&self, newest: &Point, actor: &str) -> Result<bool, Status> {
        let disks = newest.disks.iter();
        let machine = FoundMachine {
            id: MachineId(newest.machine),
            name: newest.machine_name.clone(),
            disks: disks
                .map(|disk| DiskSpec { name: disk.name.clone(), size_bytes: disk.size_bytes })
                .collect(),
        };
        within(self.inner.authority.add_machine(&machine, actor)).await
    }

    async fn count(&self, machine: Uuid) -> Result<u64, Status> {
        Ok(within(self.inner.authority.known_points(MachineId(machine))).await?.len() as u64)
    }
}
