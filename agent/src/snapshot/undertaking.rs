//! A snapshot that is being taken, as a thing that can be undone.

use std::io;

use holdfast_proto::ids::{SnapshotId, StepId};

use super::journal::{Journal, JournalError, Journals};
use super::reflink::CloneDir;

/// Undone when it is dropped, unless it was kept: clones removed, then the journal. That may wait for the disk.
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

    /// Leaves everything as it is: a snapshot, or what the next start has to see to.
    pub(crate) fn leave(mut self) {
        self.end = End::Leave;
    }
}

impl Drop for Undertaking {
    fn drop(&mut self) {
        if self.end == End::Undo
            && let Err(error) = undo(&self.journals, &self.journal)
        {
            tracing::error!(snapshot = %self.id(), %error, "cannot remove what a snapshot left; the next start will try again");
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
