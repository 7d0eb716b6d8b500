//! What somebody was told, which must stay true, and how often what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_vault_engine::Point;
use uuid::Uuid;

use crate::support::Image;

pub(super) type Key = (Uuid, u64);

/// What is known of a point, or of a backup that may become one.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) image: Image,
    /// Somebody was told that it is there.
    pub(super) point: Option<Point>,
    pub(super) deletions_begun: usize,
    pub(super) deletions_ended: usize,
    /// It was undeleted after so many deletions had begun, and no other one was under way.
    pub(super) kept_after: Option<usize>,
    pub(super) is_locked: bool,
    /// Somebody may have unlocked it.
    pub(super) is_unlocked: bool,
}

impl Truth {
    pub(super) fn may_be_deleted(&self) -> bool {
        let is_kept = self.kept_after.is_some_and(|after| after == self.deletions_begun);
        self.deletions_begun > 0 && !is_kept && (!self.is_locked || self.is_unlocked)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) purged: usize,
    pub(super) left: usize,
    pub(super) borrowed: usize,
    pub(super) merged: usize,
    pub(super) compacted: u64,
    pub(super) refused: usize,
    pub(super) restored: usize,
    pub(super) killed: usize,
    pub(super) held: usize,
}

pub(super) type AllCounts = Arc<Mutex<Counts>>;

pub(super) type Known = BTreeMap<Key, Truth>;

/// All that processes share beside the storage: what they told somebody.
#[derive(Clone, Debug)]
pub(super) struct Told(Arc<Mutex<Known>>, AllCounts);

impl Told {
    pub(super) fn counted(counts: AllCounts) -> Self {
        Self(Arc::default(), counts)
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.1.lock().unwrap()
    }

    pub(super) fn with<T>(&self, key: Key, tell: impl FnOnce(&mut Truth) -> T) -> T {
        tell(self.known().get_mut(&key).unwrap())
    }
}
