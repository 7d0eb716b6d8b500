use std::time::Duration;

use uuid::Uuid;

use crate::VaultError;

/// What a collection would do, or did. Bytes are of the storage.
#[derive(Debug, Default)]
pub struct CollectionReport {
    /// 0 for a plan.
    pub epoch: u64,
    pub purged: Vec<PurgedPoint>,
    /// Found dead by this collection.
    pub condemned_segments: u64,
    pub condemned_bytes: u64,
    /// Deleted, by this collection or left over by an earlier one.
    pub deleted_segments: u64,
    pub deleted_bytes: u64,
    /// Segments that were replaced by what points need of them, and what that frees once they are deleted.
    pub compacted_segments: u64,
    pub compacted_bytes: u64,
    /// Backups that began before it and may use what was condemned: that is deleted by a later collection.
    pub waiting_for: Vec<(Uuid, u64)>,
    /// Machines with damage that hides what they need, and why. If there is one, nothing is condemned or deleted.
    pub held: Vec<(Uuid, VaultError)>,
    /// Read from the storage for all of this; what was in memory was not read.
    pub read_bytes: u64,
    /// The clock leapt by so much: no window ended.
    pub clock_leap: Option<Duration>,
}

/// A point whose window is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PurgedPoint {
    pub machine: Uuid,
    pub seq: u64,
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionProgress {
    pub machines_done: usize,
    pub machines: usize,
    pub condemned_bytes: u64,
    pub compacted_bytes: u64,
    pub read_bytes: u64,
}
