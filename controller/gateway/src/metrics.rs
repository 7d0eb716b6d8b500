//! What the gateway counts.

use metrics::{counter, gauge};

/// Payload of accepted frames, in bytes as they came.
pub(crate) const RECEIVED_BYTES: Counter = Counter("holdfast_gateway_received_bytes_total");
pub(crate) const RECEIVED_CELLS: Counter = Counter("holdfast_gateway_received_cells_total");
/// Received cells whose bytes the vault had already.
pub(crate) const KNOWN_CELLS: Counter = Counter("holdfast_gateway_known_cells_total");
pub(crate) const REFUSED_FRAMES: Counter = Counter("holdfast_gateway_refused_frames_total");
pub(crate) const ACKNOWLEDGED_FRAMES: Counter = Counter("holdfast_gateway_acknowledged_frames_total");
pub(crate) const POINTS: Counter = Counter("holdfast_gateway_points_total");
pub(crate) const RESTORES: Counter = Counter("holdfast_gateway_restores_total");
/// Payload handed to operators, in bytes as they are stored.
pub(crate) const RESTORED_BYTES: Counter = Counter("holdfast_gateway_restored_bytes_total");
pub(crate) const COLLECTIONS: Counter = Counter("holdfast_gateway_collections_total");
pub(crate) const PURGED_POINTS: Counter = Counter("holdfast_gateway_purged_points_total");
/// Deleted from the vault's storage.
pub(crate) const COLLECTED_BYTES: Counter = Counter("holdfast_gateway_collected_bytes_total");
/// Of segments that a verification read whole.
pub(crate) const VERIFIED_BYTES: Counter = Counter("holdfast_gateway_verified_bytes_total");
/// Findings of verifications: points that do not restore.
pub(crate) const DAMAGED_POINTS: Counter = Counter("holdfast_gateway_damage_found_total");
/// Locks of points that the storage was made to enforce, and how often that failed.
pub(crate) const ENFORCED_LOCKS: Counter = Counter("holdfast_gateway_enforced_locks_total");
pub(crate) const UNENFORCED_LOCKS: Counter = Counter("holdfast_gateway_unenforced_locks_total");
/// Transfers that this gateway holds.
pub(crate) const TRANSFERS: Gauge = Gauge("holdfast_gateway_transfers");

/// Name of something that only grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter(&'static str);

/// Name of something that goes up and down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge(&'static str);

impl Counter {
    pub(crate) fn add(self, count: usize) {
        counter!(self.0).increment(count as u64);
    }
}

impl Gauge {
    pub(crate) fn set(self, value: usize) {
        // A gauge is a float; nobody holds 2^32 transfers.
        gauge!(self.0).set(f64::from(u32::try_from(value).unwrap_or(u32::MAX)));
    }
}
