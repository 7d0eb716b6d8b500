//! What a gateway was told, and so may have told others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::support::Image;

/// At one moment.
#[derive(Clone, Default)]
pub(super) struct Said {
    /// What is under way, for whoever reads of a failure.
    pub(super) doing: String,
    /// The vault was made.
    pub(super) made: bool,
    /// Of every backup that began, by its step: one that nobody was told of may be a point as well.
    pub(super) images: BTreeMap<Uuid, Arc<Image>>,
    pub(super) points: BTreeMap<(Uuid, u64), Standing>,
    /// By machine: what was acknowledged to a backup that has no point yet.
    pub(super) acknowledged: BTreeMap<Uuid, Acknowledged>,
    pub(super) second_key: Key,
}

/// What was said of a point.
#[derive(Clone, Default)]
pub(super) struct Standing {
    pub(super) deleted: Deleted,
    /// Until when it is locked.
    pub(super) locked: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Deleted {
    #[default]
    No,
    /// It is being decided.
    Asked,
    Yes,
    /// A collection that may purge it is under way.
    Purging,
    Purged,
}

#[derive(Clone)]
pub(super) struct Acknowledged {
    pub(super) seq: u64,
    pub(super) image: Arc<Image>,
    pub(super) blocks: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Key {
    #[default]
    Unknown,
    Added,
    Removing,
    Removed,
}

#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Said>>);

impl Ledger {
    pub(super) fn says(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doing(&self, what: impl Into<String>) {
        self.says().doing = what.into();
    }

    pub(super) fn deleted(&self, point: (Uuid, u64), deleted: Deleted) {
        self.says().points.get_mut(&point).unwrap().deleted = deleted;
    }
}
