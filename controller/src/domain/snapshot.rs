use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::JobError;
use super::job::Consistency;

/// A disk as its agent tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRow {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
}

/// A snapshot that an agent took.
#[derive(Clone, Debug)]
pub(crate) struct TakenSnapshot {
    pub(crate) id: Uuid,
    pub(crate) consistency: Consistency,
    pub(crate) taken_at: DateTime<Utc>,
    pub(crate) disks: Vec<DiskRow>,
    /// What it lacks.
    pub(crate) warning: Option<JobError>,
}
