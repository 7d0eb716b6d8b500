//! What an earlier process left: first thawed, then loaded or removed.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use holdfast_proto::ids::{SnapshotId, StepId};

use super::journal::{Journal, Journals, Phase};
use super::mounts::Mounts;
use super::reflink::{self, CloneDir};
use super::undertaking::undo;
use super::watchdog::{Thawed, thaw_within};
use super::{Snapshot, SnapshotDisk};
use crate::disk::DiskSource;

/// How long a thaw may wait for a freeze that hangs.
const THAW_LIMIT: Duration = Duration::from_secs(10);
/// How long the agent's start may wait for file systems that do not answer.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// Thaws what may be frozen still, and returns the snapshots that survived. What does not answer in time goes on in the
/// background.
pub(crate) fn recover(journals: &Journals, configured: Vec<DiskSource>) -> Vec<Snapshot> {
    let (sender, survivors) = mpsc::channel();
    let journals = journals.clone();
    std::thread::spawn(move || {
        let _ = sender.send(recover_all(&journals, &configured));
    });
    survivors.recv_timeout(RECOVERY_LIMIT).unwrap_or_else(|_| {
        tracing::error!("what earlier snapshots left is not cleaned up yet: a file system does not answer");
        Vec::new()
    })
}

fn recover_all(journals: &Journals, configured: &[DiskSource]) -> Vec<Snapshot> {
    let found = journals.load().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot list the journals of the snapshots");
        Vec::new()
    });
    let found: Vec<(Journal, Thawed)> =
        found.into_iter().map(|journal| (journal.clone(), thaw(&journal))).collect();
    let mut survivors = Vec::new();
    let mut named = BTreeSet::new();
    for (journal, thawed) in found {
        if thawed == Thawed::NotAll {
            // The next start must still know what to thaw.
            named.insert(journal.id());
            continue;
        }
        let survivor = (journal.phase == Phase::Taken).then(|| load(&journal)).flatten();
        if let Some(snapshot) = survivor {
            tracing::info!(snapshot = %snapshot.id, "snapshot of an earlier process found");
            named.insert(snapshot.id);
            survivors.push(snapshot);
        } else {
            tracing::warn!(snapshot = %journal.id(), "what is left of a snapshot is removed");
            if let Err(error) = undo(journals, &journal) {
                tracing::error!(snapshot = %journal.id(), %error, "cannot remove what is left of a snapshot");
                named.insert(journal.id());
            }
        }
    }
    for disk in configured {
        remove_leftovers(disk, &named);
    }
    survivors
}

fn thaw(journal: &Journal) -> Thawed {
    if journal.frozen.is_empty() {
        return Thawed::All;
    }
    let mounts = match Mounts::read() {
        Ok(mounts) => mounts,
        Err(error) => {
            tracing::error!(%error, "cannot find what may be frozen");
            return Thawed::NotAll;
        }
    };
    let mut files = Vec::new();
    let mut thawed = Thawed::All;
    for frozen in journal.frozen.iter().filter(|frozen| mounts.contains(frozen.device)) {
        match mounts.open(frozen.device) {
            Ok(mounted) => files.push(mounted.file),
            Err(error) => {
                tracing::error!(mount_point = %frozen.mount_point.display(), %error, "cannot thaw");
                thawed = Thawed::NotAll;
            }
        }
    }
    if thaw_within(files, THAW_LIMIT) == Thawed::NotAll {
        let mount_points: Vec<_> = journal.frozen.iter().map(|frozen| &frozen.mount_point).collect();
        tracing::error!(?mount_points, "not everything that may be frozen answers");
        thawed = Thawed::NotAll;
    }
    thawed
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

/// Clones of this disk that nothing names.
fn remove_leftovers(disk: &DiskSource, named: &BTreeSet<SnapshotId>) {
    let Ok(path) = reflink::beside(&disk.path) else { return };
    let removed = CloneDir::open(&path).and_then(|directory| {
        let Some(directory) = directory else { return Ok(()) };
        for name in directory.clones()? {
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
