//! The snapshots that this process holds.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_proto::ids::{SnapshotId, StepId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::Journals;
use super::undertaking::undo;
use super::{Hold, Snapshot};
use crate::backoff::Backoff;

/// How long a writer waits at most until a lease is given up.
const WATCH_PERIOD: Duration = Duration::from_millis(200);
/// How soon, and at last how seldom, a removal that failed is tried again.
const RETRY_MIN: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// All held snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    journals: Journals,
    held: Mutex<HashMap<SnapshotId, Held>>,
    retries: Backoff,
    late: Notify,
}

#[derive(Debug)]
struct Held {
    snapshot: Arc<Snapshot>,
    retry: Option<Retry>,
}

/// Of one that was let go and could not be removed: it takes space for as long as that lasts, and nobody may ask again.
#[derive(Debug)]
struct Retry {
    at: Instant,
    backoff: Backoff,
}

impl From<Snapshot> for Held {
    fn from(snapshot: Snapshot) -> Self {
        Self { snapshot: Arc::new(snapshot), retry: None }
    }
}

impl Snapshots {
    pub(crate) fn new(journals: Journals) -> Self {
        let retries = Backoff::new(RETRY_MIN, RETRY_MAX);
        Self { journals, held: Mutex::default(), retries, late: Notify::new() }
    }

    pub(crate) fn journals(&self) -> &Journals {
        &self.journals
    }

    pub(crate) fn hold(&self, snapshot: Snapshot) {
        self.lock().insert(snapshot.id, snapshot.into());
    }

    pub(crate) fn find(&self, id: SnapshotId) -> Option<Arc<Snapshot>> {
        self.lock().get(&id).map(|held| Arc::clone(&held.snapshot))
    }

    /// Snapshots of an earlier process are held since now, which a Hello may not have told of.
    pub(super) fn found_late(&self) {
        self.late.notify_one();
    }

    /// Waits until [`found_late`](Self::found_late).
    pub(crate) async fn late(&self) {
        self.late.notified().await;
    }

    pub(crate) fn ids(&self) -> Vec<SnapshotId> {
        self.lock().keys().copied().collect()
    }

    /// All that are held, each with the step that it was taken for.
    pub(crate) fn with_steps(&self) -> Vec<(SnapshotId, StepId)> {
        self.lock().values().map(|held| (held.snapshot.id, held.snapshot.step)).collect()
    }

    /// Lets go of a snapshot; one that is unknown is gone already. From now on it is not listed, and in the background
    /// what it is made of is removed; if that fails, it is listed again, and [`watch`](Self::watch) tries it again.
    pub(crate) fn release(self: &Arc<Self>, id: SnapshotId) -> JoinHandle<io::Result<()>> {
        let held = self.lock().remove(&id);
        let registry = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let Some(Held { snapshot, retry }) = held else { return Ok(()) };
            let removed =
                snapshot.journal.as_ref().map_or(Ok(()), |journal| undo(&registry.journals, journal));
            match &removed {
                Ok(()) => tracing::info!(snapshot = %id, "snapshot released"),
                Err(error) => {
                    let mut backoff = retry.map_or_else(|| registry.retries.clone(), |retry| retry.backoff);
                    let wait = backoff.next_wait();
                    tracing::warn!(snapshot = %id, %error, retry_s = wait.as_secs(), "snapshot not removed");
                    let retry = Some(Retry { at: Instant::now() + wait, backoff });
                    registry.lock().insert(id, Held { snapshot, retry });
                }
            }
            removed
        })
    }

    /// Lets go of what earlier attempts of a step hold.
    pub(crate) fn release_of_step(self: &Arc<Self>, step: StepId) -> Vec<JoinHandle<io::Result<()>>> {
        let ids = self.select(|held| held.snapshot.step == step);
        ids.into_iter().map(|id| self.release(id)).collect()
    }

    /// Notices writers that wait for a lease, and lets them go on; and tries removals again that failed. Runs until told to stop.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(WATCH_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let is_due = |held: &Held| held.retry.as_ref().is_some_and(|retry| retry.at <= Instant::now());
            for id in self.select(is_due) {
                self.release(id);
            }
            let snapshots: Vec<Arc<Snapshot>> =
                self.lock().values().map(|held| Arc::clone(&held.snapshot)).collect();
            let disks = snapshots.iter().flat_map(|snapshot| &snapshot.disks);
            for disk in disks.filter(|disk| disk.hold == Hold::Lease) {
                // Marks the disk as broken; whoever reads it finds that out by itself.
                let _ = disk.check();
            }
        }
    }

    fn select(&self, wanted: impl Fn(&Held) -> bool) -> Vec<SnapshotId> {
        self.lock().values().filter(|held| wanted(held)).map(|held| held.snapshot.id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SnapshotId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::journal::{CloneRecord, Journal};
    use super::super::reflink::{CloneDir, CloneName, DIRECTORY};
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_could_not_be_removed_is_removed_later() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("data.raw");
        std::fs::write(&image, b"").unwrap();
        let directory = CloneDir::create(&image).unwrap();
        let (id, step) = (SnapshotId::generate(), StepId::generate());
        let clone = directory.path(&CloneName { snapshot: id, disk: "data".to_owned() });
        std::fs::write(&clone, b"").unwrap();
        let journals = Journals::new(dir.path().to_owned());
        let mut journal = Journal::new(id, step);
        let path = dir.path().join(DIRECTORY);
        journal.clones.push(CloneRecord { disk: "data".to_owned(), directory: path.clone(), size_bytes: 0 });
        journals.write(&journal).unwrap();
        let snapshot = Snapshot { id, step, disks: Vec::new(), journal: Some(journal) };
        let mut snapshots = Snapshots::new(journals);
        snapshots.hold(snapshot);
        snapshots.retries = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let snapshots = Arc::new(snapshots);
        let stop = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&snapshots).watch(stop.clone()));

        // It is not the agent's own.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        snapshots.release(id).await.unwrap().unwrap_err();
        tokio::time::sleep(WATCH_PERIOD * 3).await;
        assert!(clone.try_exists().unwrap());
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        tokio::time::sleep(WATCH_PERIOD * 10).await;
        assert!(!clone.try_exists().unwrap());
        assert!(snapshots.ids().is_empty() && snapshots.journals().load().unwrap().is_empty());
        stop.cancel();
        watch.await.unwrap();
    }
}
