use std::sync::Arc;

use tonic::Status;
use tracing::{debug, info, warn};

use holdfast_proto::ids::{PointId, StepId};
use holdfast_proto::v1::{
    AckResult, Progress, ReportAck, StepReport, controller_message, step_report::Outcome,
};

use crate::app::{App, crash_point};
use crate::domain::error::JobError;
use crate::live::Live;
use crate::store::StoreError;
use crate::store::attempt::{AttemptEnd, AttemptKey, Recorded};
use crate::store::session::ProgressUpdate;

use super::wire::{self, malformed, read_error, read_snapshot};

/// Records a report and acknowledges it. An error ends the session: the agent keeps the report and sends it again, which for
/// one that cannot be understood would never end.
pub(super) async fn handle(app: &Arc<App>, live: &Arc<Live>, report: StepReport) -> Result<(), Status> {
    let read = report.attempt.and_then(|attempt| Some((wire::read_attempt(&attempt).ok()?, attempt)));
    let Some(((step, number), attempt)) = read else {
        warn!(agent = %live.agent, "a report without its attempt is dropped");
        return Ok(());
    };
    let end = match report.outcome {
        Some(Outcome::Progress(progress)) => {
            app.sessions.note_progress(progress_update(live, (step, number), report.sequence, progress));
            return Ok(());
        }
        outcome => read_end(outcome).unwrap_or_else(|status| {
            warn!(agent = %live.agent, %step, reason = status.message(), "a report is not understood");
            AttemptEnd::Failed(JobError::wrong_report())
        }),
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

fn read_end(outcome: Option<Outcome>) -> Result<AttemptEnd, Status> {
    Ok(match outcome {
        Some(Outcome::SnapshotTaken(taken)) => AttemptEnd::SnapshotTaken(read_snapshot(taken)?),
        Some(Outcome::TransferDone(done)) => {
            AttemptEnd::Transferred { point: PointId::from_wire(&done.point_id)?.0 }
        }
        Some(Outcome::SnapshotReleased(_)) => AttemptEnd::Released,
        Some(Outcome::Failed(detail)) => AttemptEnd::Failed(read_error(detail)),
        Some(Outcome::Cancelled(_)) => AttemptEnd::Cancelled,
        // A newer agent's.
        Some(Outcome::Progress(_)) | None => return Err(malformed("a report of an unknown kind")),
    })
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
