//! What agents say in a session: nothing of it is believed.

use std::collections::HashSet;

use chrono::{DateTime, Datelike as _, Utc};
use tonic::{Code, Status};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error};
use holdfast_proto::ids::{SnapshotId, StepId};
use holdfast_proto::v1::{self, Disk, Hello, SnapshotTaken, StepAttempt};

use crate::domain::error::{Fault, JobError};
use crate::domain::job::Consistency;
use crate::domain::name::is_disk_name;
use crate::domain::snapshot::{DiskRow, TakenSnapshot};

const MAX_DISKS: usize = 1024;
const MAX_ATTEMPTS: usize = 1024;
/// More of a snapshot's warnings are dropped.
const MAX_WARNINGS: usize = 64;
/// A clock that is elsewhere is wrong, and most of what chrono can count is no time for Postgres.
const YEARS: std::ops::Range<i32> = 1970..10_000;

/// A Hello that passed its checks.
#[derive(Clone, Debug)]
pub(super) struct CheckedHello {
    pub(super) boot_id: String,
    pub(super) version: String,
    pub(super) disks: Vec<DiskRow>,
    pub(super) snapshots: Vec<SnapshotId>,
    pub(super) settled_snapshots: Vec<SnapshotId>,
    pub(super) running: Vec<(StepId, i64)>,
}

pub(super) fn check_hello(hello: Hello) -> Result<CheckedHello, Status> {
    // Postgres takes no NUL.
    let fits = |text: &str| text.len() <= 64 && !text.contains('\0');
    if hello.boot_id.is_empty() || !fits(&hello.boot_id) || !fits(&hello.agent_version) {
        return Err(refuse("boot_id or agent_version is missing, too long, or no text"));
    }
    let counts = [hello.running.len(), hello.snapshot_ids.len(), hello.settled_snapshot_ids.len()];
    if counts.into_iter().any(|count| count > MAX_ATTEMPTS) {
        return Err(refuse("too many attempts or snapshots"));
    }
    Ok(CheckedHello {
        boot_id: hello.boot_id,
        version: hello.agent_version,
        disks: check_disks(hello.disks)?,
        snapshots: read_snapshots(&hello.snapshot_ids)?,
        settled_snapshots: read_snapshots(&hello.settled_snapshot_ids)?,
        running: hello.running.iter().map(read_attempt).collect::<Result<_, _>>()?,
    })
}

/// Checks names and sizes, and that no name comes twice.
pub(super) fn check_disks(disks: Vec<Disk>) -> Result<Vec<DiskRow>, Status> {
    if disks.len() > MAX_DISKS {
        return Err(refuse("more than 1024 disks"));
    }
    let mut seen = HashSet::new();
    disks
        .into_iter()
        .map(|disk| {
            if !is_disk_name(&disk.name)
                || i64::try_from(disk.size_bytes).is_err()
                || !seen.insert(disk.name.clone())
            {
                return Err(refuse(&format!(
                    "disk {:?} has a bad or repeated name, or a bad size",
                    disk.name
                )));
            }
            Ok(DiskRow { name: disk.name, size_bytes: disk.size_bytes })
        })
        .collect()
}

fn read_snapshots(ids: &[String]) -> Result<Vec<SnapshotId>, Status> {
    ids.iter().map(|id| SnapshotId::from_wire(id)).collect()
}

pub(super) fn read_attempt(attempt: &StepAttempt) -> Result<(StepId, i64), Status> {
    Ok((StepId::from_wire(&attempt.step_id)?, attempt.attempt))
}

pub(super) fn read_snapshot(taken: SnapshotTaken) -> Result<TakenSnapshot, Status> {
    let consistency = match taken.consistency() {
        v1::Consistency::Application => Consistency::Application,
        v1::Consistency::FileSystem => Consistency::FileSystem,
        v1::Consistency::Crash | v1::Consistency::Unspecified => Consistency::Crash,
    };
    let at = taken
        .taken_at
        .as_ref()
        .and_then(|at| DateTime::<Utc>::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?))
        .filter(|at| YEARS.contains(&at.year()));
    let disks = check_disks(taken.disks)?;
    if disks.is_empty() {
        return Err(malformed("a snapshot of no disk"));
    }
    Ok(TakenSnapshot {
        id: SnapshotId::from_wire(&taken.snapshot_id)?.0,
        consistency,
        taken_at: at.unwrap_or_else(Utc::now),
        disks,
        warning: read_warnings(taken.warnings),
    })
}

/// All of them in one sentence each, under the code of the first.
fn read_warnings(warnings: Vec<v1::ErrorDetail>) -> Option<JobError> {
    let mut warnings = warnings.into_iter().take(MAX_WARNINGS).map(read_error);
    let mut first = warnings.next()?;
    for other in warnings {
        first.message = format!("{}; {}", first.message, other.message);
    }
    Some(first)
}

/// What an agent says of a failure is shown to people: bounded, without the NUL that Postgres refuses, and nothing else is
/// made of it.
pub(super) fn read_error(detail: v1::ErrorDetail) -> JobError {
    let bounded =
        |text: String, longest: usize| text.chars().filter(|c| *c != '\0').take(longest).collect::<String>();
    let fault = match detail.fault() {
        v1::Fault::User => Fault::User,
        v1::Fault::System => Fault::System,
        v1::Fault::Agent | v1::Fault::Unspecified => Fault::Agent,
    };
    let is_code = !detail.code.is_empty()
        && detail.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
    JobError {
        code: if is_code { bounded(detail.code, 64) } else { "agent_failed".to_owned() },
        fault,
        retryable: detail.retryable,
        message: bounded(detail.message, 4096),
        action: bounded(detail.action, 4096),
    }
}

fn refuse(message: &str) -> Status {
    agent_error("invalid_hello", message).into_status(Code::InvalidArgument)
}

pub(super) fn malformed(message: &str) -> Status {
    agent_error("malformed_report", message).into_status(Code::InvalidArgument)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::error::detail_of;

    fn hello() -> Hello {
        Hello { boot_id: "b".to_owned(), agent_version: "1".to_owned(), ..Hello::default() }
    }

    #[test]
    fn what_the_catalogue_cannot_keep_is_refused() {
        check_hello(hello()).unwrap();
        fn refused<T>(result: Result<T, Status>) -> String {
            let Err(status) = result else { panic!("it was taken") };
            assert_eq!(
                (status.code(), detail_of(&status).code.as_str()),
                (Code::InvalidArgument, "invalid_hello")
            );
            status.message().to_owned()
        }
        for text in [String::new(), "x".repeat(65), "a\0b".to_owned()] {
            assert!(refused(check_hello(Hello { boot_id: text, ..hello() })).contains("boot_id"));
        }
        let version = Hello { agent_version: "\0".to_owned(), ..hello() };
        assert!(refused(check_hello(version)).contains("agent_version"));
        let disk = |name: &str, size_bytes| Disk { name: name.to_owned(), size_bytes };
        for disks in [vec![disk("a", 1), disk("a", 2)], vec![disk("", 1)], vec![disk("a", u64::MAX)]] {
            assert!(refused(check_disks(disks)).contains("bad or repeated name, or a bad size"));
        }
    }

    #[test]
    fn a_time_that_cannot_be_is_now() {
        let year = |seconds| {
            let taken = SnapshotTaken {
                snapshot_id: uuid::Uuid::nil().to_string(),
                disks: vec![Disk { name: "a".to_owned(), size_bytes: 1 }],
                taken_at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
                ..SnapshotTaken::default()
            };
            read_snapshot(taken).unwrap().taken_at.year()
        };
        assert_eq!(year(1_700_000_000), 2023);
        for seconds in [-1, i64::MIN, i64::MAX, 253_402_300_800, 8_000_000_000_000] {
            assert!((2024..9999).contains(&year(seconds)), "{seconds}");
        }
    }
}
