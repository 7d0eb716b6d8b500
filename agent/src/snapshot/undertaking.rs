//! A snapshot that is being taken, as a thing that can be undone.

use std::io;
use std::time::Duration;

use holdfast_proto::ids::{SnapshotId, StepId};

use super::journal::{FrozenMount, Journal, JournalError, Journals};
use super::mounts::Mounts;
use super::reflink::CloneDir;
use super::watchdog::{Thawed, thaw_within};

/// How long a thaw may wait for a freeze that hangs.
const THAW_LIMIT: Duration = Duration::from_secs(10);

/// Undone when it is dropped, unless it was kept: clones removed, then the journal. That may wait for the disk. What cannot be undone
/// is left to be undone later.
#[derive(Debug)]
pub(crate) struct Undertaking {
    journals: Journals,
    journal: Journal,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is on disk yet.
    Nothing,
    Undo,
    Leave,
    Keep,
}

impl Undertaking {
    /// Begins one, without a trace so far.
    pub(crate) fn begin(journals: Journals, step: StepId) -> Self {
        Self { journals, journal: Journal::new(SnapshotId::generate(), step), end: End::Nothing }
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.journal.id()
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Makes it durable what is about to be done.
    ///
    /// # Errors
    /// If that is not possible; then it must not be done.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Journal)) -> Result<(), JournalError> {
        change(&mut self.journal);
        self.end = End::Undo;
        self.journals.write(&self.journal)
    }

    /// Leaves everything as it is: a snapshot.
    pub(crate) fn keep(mut self) {
        self.end = End::Keep;
    }

    /// Leaves it to be undone later: something may be frozen still.
    pub(crate) fn leave(mut self) {
        self.end = End::Leave;
    }
}

impl Drop for Undertaking {
    fn drop(&mut self) {
        match self.end {
            End::Nothing | End::Keep => {}
            End::Leave => self.journals.leave(self.journal.clone()),
            End::Undo => {
                if let Err(error) = undo(&self.journals, &self.journal) {
                    tracing::error!(snapshot = %self.id(), %error, "cannot remove what a snapshot left; it is tried again");
                    // Nothing of it is, or it would not have been undone yet.
                    self.journal.frozen.clear();
                    self.journals.leave(self.journal.clone());
                }
            }
        }
    }
}

/// Removes the clones that a journal names, then the journal.
///
/// # Errors
/// Of the first clone that cannot be removed; the others are removed, and the journal is left.
pub(crate) fn undo(journals: &Journals, journal: &Journal) -> io::Result<()> {
    let mut result = Ok(());
    for clone in &journal.clones {
        let removed = CloneDir::open(&clone.directory).and_then(|directory| {
            directory.map_or(Ok(()), |directory| directory.remove(&journal.clone_name(clone)))
        });
        result = result.and(removed);
    }
    result?;
    journals.remove(journal.id());
    Ok(())
}

/// Undoes what was left: thaws first what may be frozen.
///
/// # Errors
/// If not everything is known to be thawed, and as [`undo`]; the journal is left.
pub(super) fn clear(journals: &Journals, journal: &mut Journal) -> io::Result<()> {
    // What is frozen again after that is none of this snapshot's.
    journal.frozen.retain(|one| thaw(std::slice::from_ref(one)) == Thawed::NotAll);
    if !journal.frozen.is_empty() {
        return Err(io::Error::other("not everything that may be frozen is thawed"));
    }
    undo(journals, journal)
}

/// Thaws what may be frozen, as a journal says, as far as it is mounted.
pub(super) fn thaw(frozen: &[FrozenMount]) -> Thawed {
    if frozen.is_empty() {
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
    for one in frozen.iter().filter(|one| mounts.contains(one.device)) {
        match mounts.open(one.device) {
            Ok(mounted) => files.push(mounted.file),
            Err(error) => {
                tracing::error!(mount_point = %one.mount_point.display(), %error, "cannot thaw");
                thawed = Thawed::NotAll;
            }
        }
    }
    if thaw_within(files, THAW_LIMIT) == Thawed::NotAll {
        let mount_points: Vec<_> = frozen.iter().map(|one| &one.mount_point).collect();
        tracing::error!(?mount_points, "not everything that may be frozen answers");
        thawed = Thawed::NotAll;
    }
    thawed
}
