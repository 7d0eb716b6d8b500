//! How far a transfer is, counted by all of its threads.

use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_proto::v1::Progress;

/// Counters in bytes.
#[derive(Debug)]
pub(super) struct Meter {
    total: u64,
    read: AtomicU64,
    changed: AtomicU64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

impl Meter {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            read: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        }
    }

    /// The disks are read from the start again; what was acknowledged stays changed.
    pub(super) fn begin_pass(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.changed.store(self.acknowledged_bytes(), Ordering::Relaxed);
    }

    /// Counts bytes that were looked at, holes included.
    pub(super) fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn changed(&self, bytes: u64) {
        self.changed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts payload that was handed to the transfer.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts changed bytes that the gateway made durable.
    pub(super) fn acknowledged(&self, changed_bytes: u64) {
        self.acknowledged.fetch_add(changed_bytes, Ordering::Relaxed);
    }

    pub(super) fn acknowledged_bytes(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            total_bytes: self.total,
            read_bytes: self.read.load(Ordering::Relaxed).min(self.total),
            changed_bytes: self.changed.load(Ordering::Relaxed),
            sent_bytes: self.sent.load(Ordering::Relaxed),
        }
    }
}
