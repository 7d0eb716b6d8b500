//! The snapshots that this process holds.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_proto::ids::{SnapshotId, StepId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::journal::Journals;
use super::undertaking::undo;
use super::{Hold, Snapshot};

/// How long a writer waits at most until a lease is given up.
const WATCH_PERIOD: Duration = Duration::from_millis(200);

/// All held snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    journals: Journals,
    held: Mutex<HashMap<SnapshotId, Arc<Snapshot>>>,
}

impl Snapshots {
    /// Holds those that survived an earlier process.
    pub(crate) fn new(journals: Journals, survivors: Vec<Snapshot>) -> Self {
        let held = survivors.into_iter().map(|snapshot| (snapshot.id, Arc::new(snapshot))).collect();
        Self { journals, held: Mutex::new(held) }
    }

    pub(crate) fn journals(&self) -> &Journals {
        &self.journals
    }

    pub(crate) fn hold(&self, snapshot: Snapshot) {
        self.lock().insert(snapshot.id, Arc::new(snapshot));
    }

    pub(crate) fn find(&self, id: SnapshotId) -> Option<Arc<Snapshot>> {
        self.lock().get(&id).cloned()
    }

    pub(crate) fn ids(&self) -> Vec<SnapshotId> {
        self.lock().keys().copied().collect()
    }

    /// Lets go of a snapshot; one that is unknown is gone already. From now on it is not listed, and in the background
    /// what it is made of is removed; if that fails, it is listed again.
    pub(crate) fn release(self: &Arc<Self>, id: SnapshotId) -> JoinHandle<io::Result<()>> {
        let snapshot = self.lock().remove(&id);
        let registry = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let Some(snapshot) = snapshot else { return Ok(()) };
            let removed =
                snapshot.journal.as_ref().map_or(Ok(()), |journal| undo(&registry.journals, journal));
            match &removed {
                Ok(()) => tracing::info!(snapshot = %id, "snapshot released"),
                Err(error) => {
                    tracing::warn!(snapshot = %id, %error, "snapshot not removed");
                    registry.lock().insert(id, snapshot);
                }
            }
            removed
        })
    }

    /// Lets go of what earlier attempts of a step hold.
    pub(crate) fn release_of_step(self: &Arc<Self>, step: StepId) -> Vec<JoinHandle<io::Result<()>>> {
        let of_step = |snapshot: &Arc<Snapshot>| (snapshot.step == step).then_some(snapshot.id);
        let ids: Vec<SnapshotId> = self.lock().values().filter_map(of_step).collect();
        ids.into_iter().map(|id| self.release(id)).collect()
    }

    /// Notices writers that wait for a lease, and lets them go on. Runs until told to stop.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(WATCH_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let snapshots: Vec<Arc<Snapshot>> = self.lock().values().cloned().collect();
            let disks = snapshots.iter().flat_map(|snapshot| &snapshot.disks);
            for disk in disks.filter(|disk| disk.hold == Hold::Lease) {
                // Marks the disk as broken; whoever reads it finds that out by itself.
                let _ = disk.check();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SnapshotId, Arc<Snapshot>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
