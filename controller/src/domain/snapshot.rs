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

impl TakenSnapshot {
    /// What the job is to be warned of, given the disks that it should have: nobody else notices a disk that is not there, for
    /// where all disks are wanted none is named.
    pub(crate) fn warning_beside(&self, wanted: &[String]) -> Option<JobError> {
        let is_missing = |name: &&String| !self.disks.iter().any(|disk| disk.name == **name);
        let missing: Vec<String> = wanted.iter().filter(is_missing).cloned().collect();
        if missing.is_empty() {
            return self.warning.clone();
        }
        let mut warning = JobError::disk_missing(&missing);
        if let Some(other) = &self.warning {
            warning.message = format!("{}; {}", warning.message, other.message);
        }
        Some(warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(disks: &[&str], warning: Option<JobError>) -> TakenSnapshot {
        let row = |name: &&str| DiskRow { name: (*name).to_owned(), size_bytes: 1 };
        TakenSnapshot {
            id: Uuid::nil(),
            consistency: Consistency::FileSystem,
            taken_at: DateTime::UNIX_EPOCH,
            disks: disks.iter().map(row).collect(),
            warning,
        }
    }

    #[test]
    fn a_disk_that_is_missing_is_told_beside_what_else_there_is() {
        let wanted = ["a".to_owned(), "b".to_owned()];
        assert_eq!(taken(&["b", "a", "c"], None).warning_beside(&wanted), None);
        assert_eq!(taken(&["c"], None).warning_beside(&[]), None);
        let warning = taken(&["b"], Some(JobError::overlap())).warning_beside(&wanted).unwrap();
        assert_eq!(warning.code, "disk_missing");
        assert!(warning.message.contains("has: a;"), "{}", warning.message);
        assert!(warning.message.ends_with(&JobError::overlap().message), "{}", warning.message);
        let other = Some(JobError::overlap());
        assert_eq!(taken(&["a", "b"], other.clone()).warning_beside(&wanted), other);
    }
}
