//! The snapshots that this process holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_proto::ids::{SnapshotId, StepId};
use tokio_util::sync::CancellationToken;

use super::Snapshot;

/// How long a writer waits at most until a lease is given up.
const WATCH_PERIOD: Duration = Duration::from_millis(200);

/// All held snapshots.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    held: Mutex<HashMap<SnapshotId, Arc<Snapshot>>>,
}

impl Snapshots {
    pub(crate) fn hold(&self, snapshot: Snapshot) {
        self.lock().insert(snapshot.id, Arc::new(snapshot));
    }

    pub(crate) fn find(&self, id: SnapshotId) -> Option<Arc<Snapshot>> {
        self.lock().get(&id).cloned()
    }

    pub(crate) fn ids(&self) -> Vec<SnapshotId> {
        self.lock().keys().copied().collect()
    }

    /// Lets go of a snapshot; one that is unknown is gone already.
    pub(crate) fn release(&self, id: SnapshotId) {
        if self.lock().remove(&id).is_some() {
            tracing::info!(snapshot = %id, "snapshot released");
        }
    }

    /// Lets go of what earlier attempts of a step hold.
    pub(crate) fn release_of_step(&self, step: StepId) {
        self.lock().retain(|_, snapshot| snapshot.step != step);
    }

    /// Notices writers that wait for a lease, and lets them go on. Runs until told to stop.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(WATCH_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let snapshots: Vec<Arc<Snapshot>> = self.lock().values().cloned().collect();
            for disk in snapshots.iter().flat_map(|snapshot| &snapshot.disks) {
                // Marks the disk as broken; whoever reads it finds that out by itself.
                let _ = disk.check();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SnapshotId, Arc<Snapshot>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
