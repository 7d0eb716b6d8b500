//! What `-o json` prints: numbers as numbers, times in RFC 3339, all keys present.

use chrono::SecondsFormat;
use holdfast_vault_engine::{Consistency, Point, PointDisk};
use serde::Serialize;
use uuid::Uuid;

#[derive(Debug, Serialize)]
pub(crate) struct PointEntry {
    /// `null` if the point is damaged.
    pub(crate) id: Option<Uuid>,
    /// Name; the id if no point of the machine is readable.
    pub(crate) machine: String,
    pub(crate) machine_id: Uuid,
    pub(crate) seq: u64,
    pub(crate) created_at: Option<String>,
    pub(crate) taken_at: Option<String>,
    pub(crate) snapshot_id: Option<Uuid>,
    pub(crate) consistency: Option<&'static str>,
    /// `listed` or `damaged`.
    pub(crate) state: &'static str,
    pub(crate) error: Option<String>,
    pub(crate) disks: Vec<DiskEntry>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DiskEntry {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) stored_bytes: u64,
}

impl PointEntry {
    pub(crate) fn of(point: &Point, state: &'static str) -> Self {
        Self {
            id: Some(point.id),
            machine: point.machine_name.clone(),
            machine_id: point.machine,
            seq: point.seq,
            created_at: Some(point.created_at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            taken_at: Some(point.taken_at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            snapshot_id: Some(point.snapshot_id),
            consistency: Some(match point.consistency {
                Consistency::Application => "application",
                Consistency::FileSystem => "file_system",
                Consistency::Crash => "crash",
            }),
            state,
            error: None,
            disks: point.disks.iter().map(DiskEntry::from).collect(),
        }
    }

    pub(crate) fn damaged(machine: String, machine_id: Uuid, seq: u64, error: String) -> Self {
        Self {
            id: None,
            machine,
            machine_id,
            seq,
            created_at: None,
            taken_at: None,
            snapshot_id: None,
            consistency: None,
            state: "damaged",
            error: Some(error),
            disks: Vec::new(),
        }
    }
}

impl From<&PointDisk> for DiskEntry {
    fn from(disk: &PointDisk) -> Self {
        Self {
            name: disk.name.clone(),
            size_bytes: disk.size_bytes,
            read_bytes: disk.read_bytes,
            changed_bytes: disk.changed_bytes,
            sent_bytes: disk.sent_bytes,
            stored_bytes: disk.stored_bytes,
        }
    }
}
