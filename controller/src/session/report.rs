use std::sync::Arc;

use chrono::{DateTime, Utc};
use tonic::{Code, Status};
use tracing::{debug, info};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error};
use holdfast_proto::ids::{PointId, SnapshotId, StepId};
use holdfast_proto::v1::{
    self, AckResult, Progress, ReportAck, SnapshotTaken, StepReport, controller_message, step_report::Outcome,
};

use crate::app::{App, crash_point};
use crate::domain::error::{Fault, JobError};
use crate::domain::job::Consistency;
use crate::live::Live;
use crate::store::StoreError;
use crate::store::attempt::{AttemptEnd, AttemptKey, Recorded, TakenSnapshot};
use crate::store::session::ProgressUpdate;

use super::hello;

/// More of a snapshot's warnings are dropped.
const MAX_WARNINGS: usize = 64;

/// Records a report and acknowledges it. An error ends the session: the agent keeps the report and sends it again.
pub(super) async fn handle(app: &Arc<App>, live: &Arc<Live>, report: StepReport) -> Result<(), Status> {
    let attempt = report.attempt.ok_or_else(|| malformed("a report without its attempt"))?;
    let (step, number) = hello::read_attempt(&attempt)?;
    let end = match report.outcome {
        Some(Outcome::Progress(progress)) => {
            app.sessions.note_progress(progress_update(live, (step, number), report.sequence, progress));
            return Ok(());
        }
        Some(Outcome::SnapshotTaken(taken)) => AttemptEnd::SnapshotTaken(read_snapshot(taken)?),
        Some(Outcome::TransferDone(done)) => {
            AttemptEnd::Transferred { point: PointId::from_wire(&done.point_id)?.0 }
        }
        Some(Outcome::SnapshotReleased(_)) => AttemptEnd::Released,
        Some(Outcome::Failed(detail)) => AttemptEnd::Failed(read_error(detail)),
        Some(Outcome::Cancelled(_)) => AttemptEnd::Cancelled,
        None => return Err(malformed("a report of an unknown kind")),
    };
    let key = AttemptKey { step, attempt: number, machine: Some(live.machine) };
    let described = describe(&end);
    let result = match app.store.end_attempt(key, end, app.timing.retry_delay).await {
        Ok(Recorded::Yes) => AckResult::Recorded,
        Ok(Recorded::Stale) => AckResult::Stale,
        Err(StoreError::ForeignStep) => {
            info!(agent = %live.agent, %step, "report about a step of another machine refused");
            AckResult::Stale
        }
        Err(error) => return Err(error.into()),
    };
    live.take_back((step, number));
    debug!(%step, attempt = number, outcome = described, ?result, "report");
    crash_point("controller::report_recorded");
    app.sessions.wake();
    let ack = ReportAck { attempt: Some(attempt), sequence: report.sequence, result: result.into() };
    // A session that does not take the answer is ending; the report will come again.
    let _ = live.send(controller_message::Kind::Ack(ack));
    Ok(())
}

fn progress_update(
    live: &Live,
    (step, attempt): (StepId, i64),
    sequence: i64,
    progress: Progress,
) -> ProgressUpdate {
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    ProgressUpdate {
        machine: live.machine.0,
        step: step.0,
        attempt,
        sequence,
        total_bytes: bytes(progress.total_bytes),
        read_bytes: bytes(progress.read_bytes),
        changed_bytes: bytes(progress.changed_bytes),
        sent_bytes: bytes(progress.sent_bytes),
    }
}

fn read_snapshot(taken: SnapshotTaken) -> Result<TakenSnapshot, Status> {
    let consistency = match taken.consistency() {
        v1::Consistency::Application => Consistency::Application,
        v1::Consistency::FileSystem => Consistency::FileSystem,
        v1::Consistency::Crash | v1::Consistency::Unspecified => Consistency::Crash,
    };
    let at = taken
        .taken_at
        .as_ref()
        .and_then(|at| DateTime::<Utc>::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?));
    let disks = hello::check_disks(taken.disks)?;
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
fn read_error(detail: v1::ErrorDetail) -> JobError {
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

fn describe(end: &AttemptEnd) -> &'static str {
    match end {
        AttemptEnd::SnapshotTaken(_) => "snapshot_taken",
        AttemptEnd::Transferred { .. } => "transfer_done",
        AttemptEnd::Released => "snapshot_released",
        AttemptEnd::Failed(_) => "failed",
        AttemptEnd::Cancelled => "cancelled",
        AttemptEnd::Lost => "lost",
    }
}

fn malformed(message: &str) -> Status {
    agent_error("malformed_report", message).into_status(Code::InvalidArgument)
}
