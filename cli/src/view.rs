//! What `-o json` shows: the contract with scripts, apart from the wire. Every key is always there; lists are arrays.

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use holdfast_proto::v1;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Error {
    pub(crate) code: String,
    pub(crate) fault: &'static str,
    pub(crate) retryable: bool,
    pub(crate) message: String,
    pub(crate) action: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) os: String,
    pub(crate) agent_version: String,
    pub(crate) enrolled_at: Option<String>,
    pub(crate) last_seen_at: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) next_slot: Option<String>,
    pub(crate) last_point_at: Option<String>,
    pub(crate) removed_at: Option<String>,
    pub(crate) verified_at: Option<String>,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Condition {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) action: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) state: &'static str,
    pub(crate) attempt: i64,
    pub(crate) total_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) started_at: Option<String>,
    pub(crate) ended_at: Option<String>,
    pub(crate) error: Option<Error>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) machine: String,
    pub(crate) machine_id: String,
    pub(crate) state: &'static str,
    pub(crate) cancel_requested: bool,
    pub(crate) disks: Vec<String>,
    pub(crate) steps: Vec<Step>,
    pub(crate) point: Option<String>,
    pub(crate) error: Option<Error>,
    pub(crate) created_at: Option<String>,
    pub(crate) started_at: Option<String>,
    pub(crate) ended_at: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) policy_revision: Option<i64>,
    pub(crate) slot: Option<String>,
    pub(crate) deadline: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct PointDisk {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) stored_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) id: String,
    pub(crate) machine: String,
    pub(crate) machine_id: String,
    pub(crate) created_at: Option<String>,
    pub(crate) consistency: &'static str,
    pub(crate) state: &'static str,
    pub(crate) disks: Vec<PointDisk>,
    pub(crate) deleted_at: Option<String>,
    pub(crate) purge_after: Option<String>,
    pub(crate) lock: Option<PointLock>,
    pub(crate) retention: Option<PointLock>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct PointLock {
    pub(crate) mode: &'static str,
    pub(crate) until: Option<String>,
}

impl From<v1::ErrorDetail> for Error {
    fn from(detail: v1::ErrorDetail) -> Self {
        let fault = match detail.fault() {
            v1::Fault::User => "user",
            v1::Fault::System => "system",
            v1::Fault::Agent => "agent",
            v1::Fault::Unspecified => "unknown",
        };
        Self {
            fault,
            code: detail.code,
            retryable: detail.retryable,
            message: detail.message,
            action: detail.action,
        }
    }
}

impl From<v1::Machine> for Machine {
    fn from(machine: v1::Machine) -> Self {
        let state = match machine.state() {
            v1::MachineState::Online => "online",
            v1::MachineState::Offline => "offline",
            v1::MachineState::Quarantined => "quarantined",
            v1::MachineState::Removed => "removed",
            v1::MachineState::Unspecified => "unknown",
        };
        Self {
            state,
            id: machine.id,
            name: machine.name,
            labels: machine.labels.into_iter().collect(),
            disks: machine
                .disks
                .into_iter()
                .map(|disk| Disk { name: disk.name, size_bytes: disk.size_bytes })
                .collect(),
            os: machine.os,
            agent_version: machine.agent_version,
            enrolled_at: time(machine.enrolled_at),
            last_seen_at: time(machine.last_seen_at),
            policy: some(machine.policy),
            next_slot: time(machine.next_slot),
            last_point_at: time(machine.last_point_at),
            removed_at: time(machine.removed_at),
            verified_at: time(machine.verified_at),
            conditions: machine
                .conditions
                .into_iter()
                .map(|condition| Condition {
                    code: condition.code,
                    message: condition.message,
                    action: condition.action,
                })
                .collect(),
        }
    }
}

impl From<v1::Step> for Step {
    fn from(step: v1::Step) -> Self {
        let kind = match step.kind() {
            v1::StepKind::TakeSnapshot => "take_snapshot",
            v1::StepKind::TransferData => "transfer_data",
            v1::StepKind::ReleaseSnapshot => "release_snapshot",
            v1::StepKind::Unspecified => "unknown",
        };
        let state = match step.state() {
            v1::StepState::Pending => "pending",
            v1::StepState::Dispatched => "dispatched",
            v1::StepState::Running => "running",
            v1::StepState::Done => "done",
            v1::StepState::Failed => "failed",
            v1::StepState::Skipped => "skipped",
            v1::StepState::Unspecified => "unknown",
        };
        let progress = step.progress.unwrap_or_default();
        Self {
            kind,
            state,
            id: step.id,
            attempt: step.attempt,
            total_bytes: progress.total_bytes,
            read_bytes: progress.read_bytes,
            changed_bytes: progress.changed_bytes,
            sent_bytes: progress.sent_bytes,
            started_at: time(step.started_at),
            ended_at: time(step.ended_at),
            error: step.error.map(Error::from),
        }
    }
}

impl From<v1::Job> for Job {
    fn from(job: v1::Job) -> Self {
        let kind = match job.kind() {
            v1::JobKind::Backup => "backup",
            v1::JobKind::Unspecified => "unknown",
        };
        Self {
            kind,
            state: state_name(job.state()),
            id: job.id,
            machine: job.machine_name,
            machine_id: job.machine_id,
            cancel_requested: job.cancel_requested,
            disks: job.disk_names,
            steps: job.steps.into_iter().map(Step::from).collect(),
            point: some(job.point_id),
            error: job.error.map(Error::from),
            created_at: time(job.created_at),
            started_at: time(job.started_at),
            ended_at: time(job.ended_at),
            policy_revision: (job.policy_revision > 0).then_some(job.policy_revision),
            policy: some(job.policy),
            slot: time(job.slot),
            deadline: time(job.deadline),
        }
    }
}

impl From<v1::Point> for Point {
    fn from(point: v1::Point) -> Self {
        let consistency = match point.consistency() {
            v1::Consistency::Application => "application",
            v1::Consistency::FileSystem => "file_system",
            v1::Consistency::Crash => "crash",
            v1::Consistency::Unspecified => "unknown",
        };
        let state = match point.state() {
            v1::PointState::Listed => "listed",
            v1::PointState::Damaged => "damaged",
            v1::PointState::SoftDeleted => "soft_deleted",
            v1::PointState::Unspecified => "unknown",
        };
        let disks = point.disks.into_iter().map(|disk| PointDisk {
            name: disk.name,
            size_bytes: disk.size_bytes,
            read_bytes: disk.read_bytes,
            changed_bytes: disk.changed_bytes,
            sent_bytes: disk.sent_bytes,
            stored_bytes: disk.stored_bytes,
        });
        Self {
            consistency,
            state,
            disks: disks.collect(),
            id: point.id,
            machine: point.machine_name,
            machine_id: point.machine_id,
            created_at: time(point.created_at),
            deleted_at: time(point.deleted_at),
            purge_after: time(point.purge_after),
            lock: point.lock.map(PointLock::from),
            retention: point.retention.map(PointLock::from),
        }
    }
}

impl From<v1::PointLock> for PointLock {
    fn from(lock: v1::PointLock) -> Self {
        let mode = match lock.mode() {
            v1::LockMode::Governance => "governance",
            v1::LockMode::Compliance => "compliance",
            v1::LockMode::Unspecified => "unknown",
        };
        Self { mode, until: time(lock.until) }
    }
}

pub(crate) fn state_name(state: v1::JobState) -> &'static str {
    match state {
        v1::JobState::Queued => "queued",
        v1::JobState::Running => "running",
        v1::JobState::Succeeded => "succeeded",
        v1::JobState::SucceededWithWarnings => "succeeded_with_warnings",
        v1::JobState::Failed => "failed",
        v1::JobState::Cancelled => "cancelled",
        v1::JobState::Expired => "expired",
        v1::JobState::Unspecified => "unknown",
    }
}

/// RFC 3339, UTC, to the second.
pub(crate) fn time(at: Option<prost_types::Timestamp>) -> Option<String> {
    let at = at?;
    let at = DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)?;
    Some(at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// On the wire what is not there is empty.
pub(crate) fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// For tables: `-` stands for nothing.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}
