//! The first message of a session: what the agent has, held against what the database says.

use std::collections::HashSet;

use tonic::{Code, Status};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error};
use holdfast_proto::ids::{SnapshotId, StepId};
use holdfast_proto::v1::{AttemptVerdict, Disk, Hello, StepAttempt, Verdict, Welcome};

use crate::app::App;
use crate::domain::name::is_disk_name;
use crate::live::{Live, wire_attempt};
use crate::store::StoreError;
use crate::store::machine::DiskRow;

const MAX_DISKS: usize = 1024;
const MAX_ATTEMPTS: usize = 1024;

/// A Hello that passed its checks.
#[derive(Clone, Debug)]
pub(super) struct CheckedHello {
    pub(super) boot_id: String,
    pub(super) version: String,
    pub(super) disks: Vec<DiskRow>,
    pub(super) snapshots: Vec<SnapshotId>,
    pub(super) running: Vec<(StepId, i64)>,
}

pub(super) fn check(hello: Hello) -> Result<CheckedHello, Status> {
    if hello.boot_id.is_empty() || hello.boot_id.len() > 64 || hello.agent_version.len() > 64 {
        return Err(refuse("boot_id or agent_version is missing or too long"));
    }
    if hello.running.len() > MAX_ATTEMPTS || hello.snapshot_ids.len() > MAX_ATTEMPTS {
        return Err(refuse("too many attempts or snapshots"));
    }
    Ok(CheckedHello {
        boot_id: hello.boot_id,
        version: hello.agent_version,
        disks: check_disks(hello.disks)?,
        snapshots: hello.snapshot_ids.iter().map(|id| SnapshotId::from_wire(id)).collect::<Result<_, _>>()?,
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

pub(super) fn read_attempt(attempt: &StepAttempt) -> Result<(StepId, i64), Status> {
    Ok((StepId::from_wire(&attempt.step_id)?, attempt.attempt))
}

/// Adopts what is current and answers what the agent has to do about the rest.
pub(super) async fn reconcile(app: &App, live: &Live, hello: &CheckedHello) -> Result<Welcome, StoreError> {
    let lease = app.timing.agent_lost_after;
    let adopted = app.store.adopt(live.machine, app.controller_id, &hello.running, lease).await?;
    for attempt in &adopted {
        live.hand_over(*attempt);
    }
    let wanted = app.store.wanted_snapshots(live.machine).await?;
    let attempts = hello
        .running
        .iter()
        .map(|attempt| {
            let verdict = if adopted.contains(attempt) { Verdict::Adopt } else { Verdict::Abandon };
            AttemptVerdict { attempt: Some(wire_attempt(*attempt)), verdict: verdict.into() }
        })
        .collect();
    let remove_snapshot_ids = hello
        .snapshots
        .iter()
        .filter(|snapshot| !wanted.contains(snapshot) && !is_being_taken(hello, &adopted))
        .map(ToString::to_string)
        .collect();
    let heartbeat_interval = prost_duration(app.timing.heartbeat);
    Ok(Welcome { heartbeat_interval: Some(heartbeat_interval), attempts, remove_snapshot_ids })
}

/// A snapshot that nobody knows may be that of an adopted attempt whose report is still on its way.
fn is_being_taken(hello: &CheckedHello, adopted: &[(StepId, i64)]) -> bool {
    hello.running.iter().any(|attempt| adopted.contains(attempt))
}

fn prost_duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

fn refuse(message: &str) -> Status {
    agent_error("invalid_hello", message).into_status(Code::InvalidArgument)
}
