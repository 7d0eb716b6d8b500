use chrono::{DateTime, Utc};
use uuid::Uuid;

use holdfast_vault_format::record::Consistency;

/// A backup that wants to begin.
#[derive(Clone, Debug)]
pub struct BeginBackup {
    pub machine: Uuid,
    pub machine_name: String,
    pub snapshot_id: Uuid,
    pub step_id: Uuid,
    pub attempt: i64,
    pub consistency: Consistency,
    pub taken_at: DateTime<Utc>,
    pub disks: Vec<DiskSpec>,
    /// The largest sequence number of a point in the catalogue: the new one is larger. What is up to it and has no outcome is a point that
    /// the storage lost, or an abort: not to be concluded here, since an abort in its place would let go what the point needs.
    pub at_least_seq: u64,
    /// Points that are known to be damaged: none is built upon, so the backup after one is a full one, which heals.
    pub damaged: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    pub name: String,
    pub size_bytes: u64,
}
