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

use super::journal::{Journal, Journals};
use super::undertaking::{clear, undo};
use super::{Hold, Snapshot};
use crate::backoff::Backoff;
use crate::blocking::blocking;

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

    /// Notices writers that wait for a lease, and lets them go on; and tries removals and thaws again that failed. Runs until told to
    /// stop.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(WATCH_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let is_due = |held: &Held| held.retry.as_ref().is_some_and(|retry| retry.at <= Instant::now());
            for id in self.select(is_due) {
                self.release(id);
            }
            for journal in self.journals.take_left() {
                tokio::spawn(Arc::clone(&self).clear(journal, stop.clone()));
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

    /// Undoes what is left of something that is no snapshot, however many tries that takes.
    async fn clear(self: Arc<Self>, mut journal: Journal, stop: CancellationToken) {
        let (id, mut backoff) = (journal.id(), self.retries.clone());
        while stop.run_until_cancelled(tokio::time::sleep(backoff.next_wait())).await.is_some() {
            let journals = self.journals.clone();
            let (cleared, left) = blocking(move || {
                let cleared = clear(&journals, &mut journal);
                (cleared, journal)
            })
            .await;
            if let Err(error) = cleared {
                tracing::warn!(snapshot = %id, %error, "what is left of a snapshot is not removed");
            } else {
                tracing::info!(snapshot = %id, "what was left of a snapshot is removed");
                return;
            }
            journal = left;
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
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};

    use super::super::journal::{CloneRecord, FrozenMount};
    use super::super::recover::recover;
    use super::super::reflink::{CloneDir, CloneName, DIRECTORY};
    use super::super::undertaking::Undertaking;
    use super::*;
    use crate::testing::loop_disk::LoopDir;

    /// A registry that tries again soon.
    fn impatient(journals: &Path) -> Snapshots {
        let mut snapshots = Snapshots::new(Journals::new(journals.to_owned()));
        snapshots.retries = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        snapshots
    }

    /// A directory with an image, beside which there are clones.
    struct Images {
        dir: tempfile::TempDir,
        clones: PathBuf,
    }

    impl Images {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().join("data.raw");
            std::fs::write(&image, b"").unwrap();
            CloneDir::create(&image).unwrap();
            let clones = dir.path().join(DIRECTORY);
            Self { dir, clones }
        }

        fn begin(&self, snapshots: &Snapshots) -> Undertaking {
            let mut undertaking = Undertaking::begin(snapshots.journals().clone(), StepId::generate());
            let (disk, directory) = ("data".to_owned(), self.clones.clone());
            let record = CloneRecord { disk: disk.clone(), directory, size_bytes: 0 };
            undertaking.note(|journal| journal.clones.push(record)).unwrap();
            let name = CloneName { snapshot: undertaking.id(), disk };
            std::fs::write(self.clones.join(name.to_string()), b"").unwrap();
            undertaking
        }

        /// The agent removes nothing in a directory that is not its own alone.
        fn set_mode(&self, mode: u32) {
            std::fs::set_permissions(&self.clones, Permissions::from_mode(mode)).unwrap();
        }

        fn count(&self) -> usize {
            std::fs::read_dir(&self.clones).unwrap().count()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_could_not_be_removed_is_removed_later() {
        let images = Images::new();
        let snapshots = Arc::new(impatient(images.dir.path()));
        let undertaking = images.begin(&snapshots);
        let journal = undertaking.journal().clone();
        let (id, step) = (journal.id(), StepId(journal.step));
        undertaking.keep();
        snapshots.hold(Snapshot { id, step, disks: Vec::new(), journal: Some(journal) });
        let stop = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&snapshots).watch(stop.clone()));

        images.set_mode(0o755);
        snapshots.release(id).await.unwrap().unwrap_err();
        tokio::time::sleep(WATCH_PERIOD * 3).await;
        assert_eq!(images.count(), 1);
        images.set_mode(0o700);
        tokio::time::sleep(WATCH_PERIOD * 10).await;
        assert_eq!(images.count(), 0);
        assert!(snapshots.ids().is_empty() && snapshots.journals().load().unwrap().is_empty());
        stop.cancel();
        watch.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_left_of_no_snapshot_is_removed_later() {
        let images = Images::new();
        let snapshots = Arc::new(impatient(images.dir.path()));
        // As a process leaves it that dies.
        images.begin(&snapshots).keep();
        images.set_mode(0o755);
        recover(&snapshots, Vec::new());
        // And as one that failed leaves it.
        drop(images.begin(&snapshots));
        let stop = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&snapshots).watch(stop.clone()));

        tokio::time::sleep(WATCH_PERIOD * 3).await;
        assert_eq!((images.count(), snapshots.journals().load().unwrap().len()), (2, 2));
        images.set_mode(0o700);
        tokio::time::sleep(WATCH_PERIOD * 10).await;
        assert_eq!((images.count(), snapshots.journals().load().unwrap().len()), (0, 0));
        stop.cancel();
        watch.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_may_be_frozen_still_is_thawed_later() {
        let Some(dir) = LoopDir::new() else { return };
        let Some(disk) = dir.ext4("data") else { return };
        let state = tempfile::tempdir().unwrap();
        let snapshots = Arc::new(impatient(state.path()));
        let mut undertaking = Undertaking::begin(snapshots.journals().clone(), StepId::generate());
        let device = std::fs::metadata(&disk.mount_point).unwrap().dev().into();
        let frozen = FrozenMount { device, mount_point: disk.mount_point.clone() };
        undertaking.note(|journal| journal.frozen.push(frozen)).unwrap();
        disk.freeze();
        undertaking.leave();
        let stop = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&snapshots).watch(stop.clone()));
        assert!(disk.is_writable_within(Duration::from_secs(20)), "still frozen");
        tokio::time::sleep(WATCH_PERIOD * 3).await;
        assert!(snapshots.journals().load().unwrap().is_empty());
        stop.cancel();
        watch.await.unwrap();
    }
}
