//! What an earlier process left: first thawed, then loaded or removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use holdfast_proto::ids::{SnapshotId, StepId};

use super::journal::{Journal, Journals, Phase};
use super::reflink::{self, CloneDir};
use super::undertaking::{thaw, undo};
use super::watchdog::Thawed;
use super::{Snapshot, SnapshotDisk, Snapshots};
use crate::disk::DiskSource;

/// How long the agent's start may wait for file systems that do not answer.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// Thaws what may be frozen still, and holds the snapshots that survived. What does not answer in time goes on in the background,
/// beside an agent that takes snapshots.
pub(crate) fn recover(snapshots: &Arc<Snapshots>, configured: Vec<DiskSource>) {
    let _ = recover_within(RECOVERY_LIMIT, snapshots, configured);
}

/// Whether snapshots of an earlier process are all held when the first Hello is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovered {
    InTime,
    /// The registry will say so: [`Snapshots::late`].
    Late,
    /// Nor ever by this process.
    Never,
}

fn recover_within(limit: Duration, snapshots: &Arc<Snapshots>, configured: Vec<DiskSource>) -> Recovered {
    // Here, so that none is among them that this process takes.
    let found = snapshots.journals().load().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot list the journals of the snapshots");
        Vec::new()
    });
    let recovering = move |snapshots: &Snapshots| recover_all(snapshots, found, &configured);
    wait_for(recovering, limit, snapshots)
}

fn wait_for(
    recovery: impl FnOnce(&Snapshots) + Send + 'static,
    limit: Duration,
    snapshots: &Arc<Snapshots>,
) -> Recovered {
    let (sender, done) = mpsc::channel();
    // Who comes second knows of the other one: that what is found is told is not left to when the channel ends.
    let is_over = Arc::new(AtomicBool::new(false));
    let (recovering, was_over) = (Arc::clone(snapshots), Arc::clone(&is_over));
    std::thread::spawn(move || {
        recovery(&recovering);
        if was_over.swap(true, Ordering::AcqRel) {
            recovering.found_late();
        }
        let _ = sender.send(());
    });
    match done.recv_timeout(limit) {
        Ok(()) => Recovered::InTime,
        Err(RecvTimeoutError::Disconnected) => {
            tracing::error!(
                "what earlier snapshots left is not cleaned up: recovery panicked; restart the agent"
            );
            Recovered::Never
        }
        Err(RecvTimeoutError::Timeout) if is_over.swap(true, Ordering::AcqRel) => Recovered::InTime,
        Err(RecvTimeoutError::Timeout) => {
            tracing::error!(
                "what earlier snapshots left is not cleaned up yet: a file system does not answer"
            );
            Recovered::Late
        }
    }
}

fn recover_all(snapshots: &Snapshots, found: Vec<Journal>, configured: &[DiskSource]) {
    let journals = snapshots.journals();
    let found: Vec<(Journal, Thawed)> = found
        .into_iter()
        .map(|journal| {
            let thawed = thaw(&journal.frozen);
            (journal, thawed)
        })
        .collect();
    for (mut journal, thawed) in found {
        if thawed == Thawed::NotAll {
            journals.leave(journal);
            continue;
        }
        let survivor = (journal.phase == Phase::Taken).then(|| load(&journal)).flatten();
        if let Some(snapshot) = survivor {
            tracing::info!(snapshot = %snapshot.id, "snapshot of an earlier process found");
            snapshots.hold(snapshot);
        } else {
            tracing::warn!(snapshot = %journal.id(), "what is left of a snapshot is removed");
            if let Err(error) = undo(journals, &journal) {
                tracing::error!(
                    snapshot = %journal.id(), %error, "cannot remove what is left of a snapshot; it is tried again"
                );
                journal.frozen.clear();
                journals.leave(journal);
            }
        }
    }
    for disk in configured {
        remove_leftovers(disk, journals);
    }
}

/// `None` if it is not whole.
fn load(journal: &Journal) -> Option<Snapshot> {
    let mut disks = Vec::new();
    for clone in &journal.clones {
        let opened = CloneDir::open(&clone.directory).and_then(|directory| {
            let name = journal.clone_name(clone);
            directory.map(|directory| SnapshotDisk::of_clone(&directory, &name)).transpose()
        });
        match opened {
            Ok(Some(disk)) if disk.size_bytes == clone.size_bytes => disks.push(disk),
            other => {
                tracing::warn!(snapshot = %journal.id(), disk = clone.disk, ?other, "a clone is not what it was");
                return None;
            }
        }
    }
    Some(Snapshot { id: journal.id(), step: StepId(journal.step), disks, journal: Some(journal.clone()) })
}

/// Clones of this disk that no journal names.
fn remove_leftovers(disk: &DiskSource, journals: &Journals) {
    let Ok(path) = reflink::beside(&disk.path) else { return };
    let removed = CloneDir::open(&path).and_then(|directory| {
        let Some(directory) = directory else { return Ok(()) };
        let clones = directory.clones()?;
        // In this order: a journal is there before its clones, also that of a snapshot which is being taken meanwhile.
        let named: BTreeSet<SnapshotId> = journals.load()?.iter().map(Journal::id).collect();
        for name in clones {
            if name.disk == disk.name && !named.contains(&name.snapshot) {
                tracing::warn!(path = %directory.path(&name).display(), "a clone that nothing names is removed");
                directory.remove(&name)?;
            }
        }
        Ok(())
    });
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "cannot look for clones that nothing names");
    }
}

#[cfg(test)]
mod tests;
