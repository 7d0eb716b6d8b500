//! The part of `session` that reads messages.

mod wire;

use chrono::Datelike as _;
use holdfast_proto::v1::{AgentMessage, agent_message::Kind, step_report::Outcome};

use crate::domain::error::JobError;
use crate::domain::snapshot::DiskRow;

/// Reads a message as the session does.
pub(crate) fn read(message: AgentMessage) {
    match message.kind {
        Some(Kind::Hello(hello)) => {
            let Ok(checked) = wire::check_hello(hello) else { return };
            check_disks(&checked.disks);
            assert!((1..=64).contains(&checked.boot_id.len()) && checked.version.len() <= 64);
            assert!(!checked.boot_id.contains('\0') && !checked.version.contains('\0'));
            assert!(checked.running.len() <= 1024 && checked.snapshots.len() <= 1024);
        }
        Some(Kind::DisksChanged(changed)) => {
            let Ok(disks) = wire::check_disks(changed.disks) else { return };
            check_disks(&disks);
        }
        Some(Kind::Report(report)) => {
            if report.attempt.as_ref().is_none_or(|attempt| wire::read_attempt(attempt).is_err()) {
                return;
            }
            match report.outcome {
                Some(Outcome::SnapshotTaken(taken)) => {
                    let Ok(taken) = wire::read_snapshot(taken) else { return };
                    assert!(!taken.disks.is_empty() && (1970..10_000).contains(&taken.taken_at.year()));
                    check_disks(&taken.disks);
                    taken.warning.iter().for_each(check_error);
                }
                Some(Outcome::Failed(detail)) => check_error(&wire::read_error(detail)),
                _ => {}
            }
        }
        _ => {}
    }
}

fn check_disks(disks: &[DiskRow]) {
    assert!(disks.len() <= 1024);
    for (index, disk) in disks.iter().enumerate() {
        assert!(crate::domain::name::is_disk_name(&disk.name) && i64::try_from(disk.size_bytes).is_ok());
        assert!(disks[..index].iter().all(|other| other.name != disk.name), "names are unique");
    }
}

/// What the database takes and a person can read.
fn check_error(error: &JobError) {
    assert!((1..=64).contains(&error.code.len()));
    assert!(![&error.code, &error.message, &error.action].into_iter().any(|text| text.contains('\0')));
    assert!(error.action.chars().count() <= 4096);
    assert!(error.message.chars().count() <= 64 * (4096 + 2));
}
