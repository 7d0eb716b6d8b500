//! What has to be undone if this process dies, written down before it is done: one file per snapshot that leaves
//! something behind.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::ids::{SnapshotId, StepId};
use serde::{Deserialize, Serialize};

use super::mounts::DeviceNumber;
use super::reflink::CloneName;
use crate::durable;

const SUFFIX: &str = "json";

/// The directory of the journals.
#[derive(Debug, Clone)]
pub(crate) struct Journals {
    dir: PathBuf,
    /// Of what could not be undone.
    left: Arc<Mutex<Vec<Journal>>>,
}

/// One snapshot's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    pub(crate) snapshot: uuid::Uuid,
    pub(crate) step: uuid::Uuid,
    pub(crate) phase: Phase,
    /// What may be frozen.
    pub(crate) frozen: Vec<FrozenMount>,
    pub(crate) clones: Vec<CloneRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Not a snapshot yet: at the next start it is undone.
    Taking,
    /// Whole; it outlives the process.
    Taken,
    /// Whole, but some of its disks are held by this process: it does not outlive it.
    Bound,
}

/// A file system that may be frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FrozenMount {
    #[serde(flatten)]
    pub(crate) device: DeviceNumber,
    /// For people; it may be mounted elsewhere by then.
    pub(crate) mount_point: PathBuf,
}

/// A clone that may be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloneRecord {
    pub(crate) disk: String,
    /// Where it is, under the name of the snapshot and the disk.
    pub(crate) directory: PathBuf,
    /// In bytes; 0 until it is known.
    pub(crate) size_bytes: u64,
}

/// A journal could not be made durable.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the journal {}", path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    source: io::Error,
}

impl Journal {
    pub(crate) fn new(snapshot: SnapshotId, step: StepId) -> Self {
        Self {
            snapshot: snapshot.0,
            step: step.0,
            phase: Phase::Taking,
            frozen: Vec::new(),
            clones: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> SnapshotId {
        SnapshotId(self.snapshot)
    }

    pub(crate) fn clone_name(&self, clone: &CloneRecord) -> CloneName {
        CloneName { snapshot: self.id(), disk: clone.disk.clone() }
    }
}

impl Journals {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, left: Arc::default() }
    }

    /// Puts a journal in place; it is durable when this returns.
    ///
    /// # Errors
    /// Of the file system; what was there before is there still.
    pub(crate) fn write(&self, journal: &Journal) -> Result<(), JournalError> {
        let path = self.path(journal.id());
        serde_json::to_vec_pretty(journal)
            .map_err(io::Error::from)
            .and_then(|text| durable::replace(&path, &text))
            .map_err(|source| JournalError { path, source })
    }

    /// Forgets a snapshot of which nothing is left.
    pub(crate) fn remove(&self, id: SnapshotId) {
        let path = self.path(id);
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| durable::sync_directory(&self.dir)),
        };
        if let Err(error) = removed {
            // What it names is undone once more at the next start, which does no harm.
            tracing::warn!(path = %path.display(), %error, "journal not removed");
        }
    }

    /// All journals that are there. Damaged ones are set aside with a word in the log.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(crate) fn load(&self) -> io::Result<Vec<Journal>> {
        let mut journals = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != SUFFIX) {
                continue;
            }
            let journal = std::fs::read(&path).map(|text| serde_json::from_slice::<Journal>(&text));
            match journal {
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(Ok(journal)) if path == self.path(journal.id()) => journals.push(journal),
                other => {
                    tracing::error!(path = %path.display(), ?other, "a snapshot's journal is damaged and was set aside");
                    std::fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        Ok(journals)
    }

    /// Has it undone later, by this process or the next.
    pub(super) fn leave(&self, journal: Journal) {
        self.lock_left().push(journal);
    }

    /// What was left since this was asked last.
    pub(super) fn take_left(&self) -> Vec<Journal> {
        std::mem::take(&mut *self.lock_left())
    }

    fn lock_left(&self) -> MutexGuard<'_, Vec<Journal>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(format!("{id}.{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_come_back_until_they_are_removed_and_damaged_ones_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::new(dir.path().to_owned());
        let mut journal = Journal::new(SnapshotId::generate(), StepId::generate());
        journals.write(&journal).unwrap();
        journal.phase = Phase::Taken;
        journal.frozen.push(FrozenMount {
            device: DeviceNumber { major: 7, minor: 300 },
            mount_point: PathBuf::from("/mnt/a b"),
        });
        journal.clones.push(CloneRecord {
            disk: "data".to_owned(),
            directory: PathBuf::from("/srv/.holdfast-snapshots"),
            size_bytes: u64::MAX,
        });
        journals.write(&journal).unwrap();
        let damaged = journals.path(SnapshotId::generate());
        std::fs::write(&damaged, b"{\"snapshot\": ").unwrap();

        assert_eq!(journals.load().unwrap(), [journal.clone()]);
        assert!(damaged.with_extension("damaged").is_file());
        journals.remove(journal.id());
        journals.remove(journal.id());
        assert!(journals.load().unwrap().is_empty());
    }
}
