use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use holdfast_gateway::{CollectMode, CollectOrder};
use holdfast_vault_engine::{ClockTrust, Compaction};

use crate::collection;
use crate::store::StoreError;
use crate::store::collection::Occasion;

use super::Upkeep;

/// Looks so much more often than it collects: another controller may have had the turn.
pub(super) const LOOKS: u32 = 8;

/// Collects the vault's garbage, once in each period, whichever controller comes first.
pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let Upkeep { app, gateway, retention, .. } = &*upkeep;
    let (progress, _) = mpsc::channel(1);
    let occasion = Occasion::Schedule(retention.collect);
    let order =
        CollectOrder { mode: CollectMode::Collect, clock: ClockTrust::Checked, compaction: Compaction::Due };
    let collected = tokio::select! {
        collected = collection::run(app, gateway, occasion, "schedule", order, progress) => collected,
        // What it began the next one finishes.
        () = app.shutdown.cancelled() => return Ok(()),
    };
    match collected {
        Ok(None) => {}
        Ok(Some(report)) => info!(
            purged = report.purged_points,
            deleted_bytes = report.deleted_bytes,
            compacted_bytes = report.compacted_bytes,
            waiting = report.waiting_backups,
            held = report.held_machines.len(),
            "garbage collection is done"
        ),
        Err(status) => {
            warn!(reason = status.message(), "garbage collection failed; the next one goes on")
        }
    }
    Ok(())
}
