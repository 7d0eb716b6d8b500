//! Garbage collection of the vault, with the catalogue kept true beside it.

use chrono::Utc;
use tokio::sync::mpsc;
use tonic::Status;
use tracing::info;

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{
    ClockTrust, CollectOptions, CollectionProgress, CollectionReport, CollectionRun, Compaction,
};

use crate::error::{busy, status_of};
use crate::metrics::{COLLECTED_BYTES, COLLECTIONS, PURGED_POINTS};
use crate::retry::within;
use crate::{Gateway, PointLocation, crash_point};

/// What an operator or the schedule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectOrder {
    pub mode: CollectMode,
    pub clock: ClockTrust,
    pub compaction: Compaction,
}

/// Whether a collection is done or only planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectMode {
    /// Changes nothing.
    DryRun,
    Collect,
}

impl Gateway {
    /// Collects, or says what a collection would do. Dropped at any point it leaves nothing half-done that the next one does
    /// not finish. What `progress` has no room for is not told.
    ///
    /// # Errors
    /// UNAVAILABLE if this gateway collects already, or if vault or catalogue do not answer.
    pub async fn collect(
        &self,
        order: CollectOrder,
        progress: mpsc::Sender<CollectionProgress>,
    ) -> Result<CollectionReport, Status> {
        let inner = &self.inner;
        let Ok(_only) = inner.collecting.try_lock() else {
            return Err(busy("a collection runs already"));
        };
        let catalogued = within(inner.authority.catalogued_points()).await?;
        let CollectOrder { mode, clock, compaction } = order;
        let options = CollectOptions { catalogued, clock, compaction, ..CollectOptions::new(Utc::now()) };
        let mut tell = move |so_far| {
            let _ = progress.try_send(so_far);
        };
        if mode == CollectMode::DryRun {
            return inner.vault.plan_collection(options, tell).await.map_err(|error| status_of(&error));
        }
        let mut run = inner.vault.begin_collection(options).await.map_err(|error| status_of(&error))?;
        crash_point("gateway::collection_begun");
        run.look(&mut tell).await.map_err(|error| status_of(&error))?;
        crash_point("gateway::points_purged");
        // Before anything of them goes: what the catalogue lists restores.
        self.record_purged(&run).await?;
        run.compact(&mut tell).await.map_err(|error| status_of(&error))?;
        crash_point("gateway::garbage_compacted");
        run.condemn().await.map_err(|error| status_of(&error))?;
        crash_point("gateway::garbage_condemned");
        run.look_again().await.map_err(|error| status_of(&error))?;
        let report = run.sweep().await.map_err(|error| status_of(&error))?;
        crash_point("gateway::garbage_swept");
        inner.vault.keep_reserve().await;
        COLLECTIONS.add(1);
        PURGED_POINTS.add(report.purged.len());
        COLLECTED_BYTES.add(usize::try_from(report.deleted_bytes).unwrap_or(usize::MAX));
        Ok(report)
    }

    async fn record_purged(&self, run: &CollectionRun) -> Result<(), Status> {
        for purged in run.purged() {
            let machine = MachineId(purged.machine);
            self.follow_point(PointLocation { machine, seq: purged.seq }).await?;
            info!(%machine, seq = purged.seq, "a deleted point is purged: its window is over");
        }
        Ok(())
    }
}
