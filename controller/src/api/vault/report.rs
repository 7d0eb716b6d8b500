//! What collections and verifications tell, on the wire.

use holdfast_proto::v1::{
    ByteRange, CheckProgress, CollectionProgress, CollectionReport, Finding, HeldMachine, PurgedPoint,
    WaitingBackup,
};
use holdfast_vault_engine::{CollectionProgress as Progress, Finding as Found, VerifyProgress};

use crate::store::collection::{NumberedRow, ReportRow};

pub(super) fn check_progress(so_far: VerifyProgress) -> CheckProgress {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    CheckProgress {
        machines_done: count(so_far.machines_done),
        machines: count(so_far.machines),
        segments_done: count(so_far.segments_done),
        segments: count(so_far.segments),
        read_bytes: so_far.read_bytes,
    }
}

pub(super) fn finding(found: Found) -> Finding {
    let point = found.point;
    Finding {
        machine_id: found.machine.to_string(),
        machine_name: found.machine_name,
        point_id: point.as_ref().and_then(|point| point.id).map(|id| id.to_string()).unwrap_or_default(),
        seq: point.as_ref().map_or(0, |point| point.seq),
        disk_name: point.as_ref().and_then(|point| point.disk.clone()).unwrap_or_default(),
        ranges: point
            .map(|point| point.ranges)
            .unwrap_or_default()
            .into_iter()
            .map(|range| ByteRange { start: range.start, end: range.end })
            .collect(),
        reason: found.reason,
    }
}

pub(super) fn progress_to_wire(so_far: Progress) -> CollectionProgress {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    CollectionProgress {
        machines_done: count(so_far.machines_done),
        machines: count(so_far.machines),
        condemned_bytes: so_far.condemned_bytes,
        compacted_bytes: so_far.compacted_bytes,
        read_bytes: so_far.read_bytes,
    }
}

pub(super) fn report(row: ReportRow) -> CollectionReport {
    let held = row
        .held_machines
        .into_iter()
        .map(|held| HeldMachine { machine_id: held.machine.to_string(), reason: held.reason });
    CollectionReport {
        purged_points: row.purged_points,
        condemned_segments: row.condemned_segments,
        condemned_bytes: row.condemned_bytes,
        deleted_segments: row.deleted_segments,
        deleted_bytes: row.deleted_bytes,
        compacted_segments: row.compacted_segments,
        compacted_bytes: row.compacted_bytes,
        waiting_backups: row.waiting_backups,
        held_machines: held.collect(),
        read_bytes: row.read_bytes,
        clock_leap: row.clock_leap_seconds.map(|seconds| prost_types::Duration {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        purged: row.purged.into_iter().map(purged).collect(),
        waiting: row.waiting.into_iter().map(waiting).collect(),
    }
}

fn purged(row: NumberedRow) -> PurgedPoint {
    PurgedPoint {
        machine_id: row.machine.to_string(),
        machine_name: row.machine_name.unwrap_or_default(),
        point_id: row.point.map(|point| point.to_string()).unwrap_or_default(),
        seq: u64::try_from(row.seq).unwrap_or(0),
    }
}

fn waiting(row: NumberedRow) -> WaitingBackup {
    WaitingBackup {
        machine_id: row.machine.to_string(),
        machine_name: row.machine_name.unwrap_or_default(),
        seq: u64::try_from(row.seq).unwrap_or(0),
    }
}
