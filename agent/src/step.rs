//! The closed set of things that a controller can ask of an agent.

mod take_snapshot;
mod work;

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::error::{ErrorDetailExt as _, agent_error, system_error};
use holdfast_proto::ids::SnapshotId;
use holdfast_proto::v1::{ErrorDetail, SnapshotReleased, TransferDone, step_report::Outcome};

use crate::address::Address;
use crate::config::Config;
use crate::context::{Context, StepFailure};
use crate::crash_point::crash_point;
use crate::dial::Dialer;
use crate::disk::Inventory;
use crate::hooks::Hooks;
use crate::snapshot::Snapshots;
use crate::transfer::Transfer;
use crate::transfer::disk_place::DiskPlaces;
use crate::transfer::map_store::MapStore;
pub(crate) use work::Work;

/// How long clones may take to be removed. What takes longer goes on alone.
const RELEASE_LIMIT: Duration = Duration::from_secs(300);

/// What steps work with.
#[derive(Debug)]
pub(crate) struct Steps {
    pub(crate) config: Arc<Config>,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) hooks: Hooks,
    pub(crate) dialer: Dialer,
    pub(crate) maps: Arc<MapStore>,
    pub(crate) places: DiskPlaces,
}

impl Steps {
    /// Does the work of one attempt.
    pub(crate) async fn run(&self, context: &Context, work: Work) -> Result<Outcome, StepFailure> {
        match work {
            Work::TakeSnapshot { disk_names, minimum } => {
                self.take_snapshot(context, disk_names, minimum).await
            }
            Work::TransferData { snapshot, gateways } => self.transfer(context, snapshot, &gateways).await,
            Work::ReleaseSnapshot { snapshot } => {
                self.release(snapshot).await?;
                crash_point("agent::snapshot_released");
                Ok(Outcome::SnapshotReleased(SnapshotReleased {}))
            }
            Work::Unknown => Err(system_error("unknown_step", "the controller asked for something unknown")
                .action("update the agent")
                .into()),
        }
    }

    /// Undoes what a result left behind that nobody wants to hear of.
    pub(crate) fn discard(&self, outcome: &Outcome) {
        if let Some(snapshot) = taken_snapshot(outcome) {
            // In the background: nobody waits for the end of what nobody wants.
            self.snapshots.release(snapshot);
        }
    }

    async fn release(&self, snapshot: SnapshotId) -> Result<(), StepFailure> {
        let why = match tokio::time::timeout(RELEASE_LIMIT, self.snapshots.release(snapshot)).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => format!("its disks did not answer within {} s", RELEASE_LIMIT.as_secs()),
        };
        Err(agent_error("release_failed", format!("cannot remove the snapshot: {why}"))
            .retryable()
            .action("see the directory .holdfast-snapshots beside the images of this machine")
            .into())
    }

    async fn transfer(
        &self,
        context: &Context,
        snapshot: SnapshotId,
        gateways: &[String],
    ) -> Result<Outcome, StepFailure> {
        let Some(snapshot) = self.snapshots.find(snapshot) else {
            return Err(agent_error("snapshot_lost", "the agent does not hold this snapshot any more")
                .retryable()
                .into());
        };
        let gateways = self.gateways(gateways)?;
        let transfer = Transfer {
            config: Arc::clone(&self.config),
            dialer: self.dialer.clone(),
            gateways,
            snapshot,
            maps: Arc::clone(&self.maps),
            places: self.places.clone(),
        };
        let point_id = transfer.run(context).await?;
        Ok(Outcome::TransferDone(TransferDone { point_id }))
    }

    /// Only hosts that this machine's owner allowed ever get its data.
    fn gateways(&self, dispatched: &[String]) -> Result<Vec<Address>, ErrorDetail> {
        if dispatched.is_empty() {
            return Ok(vec![self.config.controller.0.clone()]);
        }
        dispatched
            .iter()
            .map(|text| match text.parse::<Address>() {
                Ok(gateway) if self.config.allows_gateway(&gateway) => Ok(gateway),
                _ => Err(agent_error(
                    "gateway_not_allowed",
                    format!("this agent may not send data to {text:?}"),
                )
                .action("add it to allowed_gateways in agent.toml if that is meant")),
            })
            .collect()
    }
}

/// The snapshot that a result tells of.
pub(crate) fn taken_snapshot(outcome: &Outcome) -> Option<SnapshotId> {
    match outcome {
        Outcome::SnapshotTaken(taken) => taken.snapshot_id.parse().ok(),
        _ => None,
    }
}
