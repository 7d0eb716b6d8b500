//! What follows when a step of a backup ends: the whole life of a job in one pure function.
//!
//! ```text
//!   take_snapshot ──> transfer_data ──> release_snapshot ──> end
//!        ^                  │
//!        └─ snapshot lost ──┘   (next round)
//! ```
//! `release_snapshot` runs after every outcome of a transfer; its own failure is a warning, because the agent goes on trying,
//! its next Hello removes what no job needs, and an agent that is refused for good removes everything.

use std::time::Duration;

use super::error::JobError;
use super::job::{JobState, StepKind, StepState};

/// Tries of one step in a round before it counts as failed.
pub(crate) const MAX_TRIES: i32 = 5;
/// Snapshots that are begun for one job before it counts as failed.
pub(crate) const MAX_ROUNDS: i32 = 3;
/// The agent's word for a snapshot that is not there any more.
pub(crate) const SNAPSHOT_LOST: &str = "snapshot_lost";

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepOutcome {
    Done,
    Failed(JobError),
    Cancelled,
    /// Nobody knows, and nobody will report any more.
    Lost,
    /// Nobody runs it, and nobody will, for this reason.
    GivenUp(JobError),
}

/// All that the decision needs to know of a job.
#[derive(Clone, Debug)]
pub(crate) struct JobView {
    pub(crate) cancel_requested: bool,
    pub(crate) round: i32,
    /// The agent reported a snapshot in this round.
    pub(crate) has_snapshot: bool,
    /// Its transfer committed a point: no round follows that.
    pub(crate) has_point: bool,
    /// Why the job will fail, if it is known already.
    pub(crate) error: Option<JobError>,
    /// What its snapshot lacks.
    pub(crate) warning: Option<JobError>,
}

/// The step that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedStep {
    pub(crate) kind: StepKind,
    /// Tries of it in this round so far, this one included.
    pub(crate) tries: i32,
}

/// What has to change, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The same step once more, after a delay.
    Retry { delay: Retry },
    /// This step ends in the given state and that one may be claimed.
    Advance { state: StepState, ready: StepKind, skip: Vec<StepKind>, error: Option<JobError> },
    /// Back to take_snapshot with a new round.
    SnapshotAgain,
    /// This step ends and the job with it.
    End { state: StepState, skip: Vec<StepKind>, job: JobState, error: Option<JobError> },
}

/// How long to wait before the same step is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// What was lost was not refused: the first wait, however often.
    First,
    /// Grows with the tries.
    Backoff(i32),
}

impl Retry {
    /// The wait, given the configured first delay: doubled with each try, at most 64 times the first. What failed at one time, such as all
    /// transfers through a gateway that died, must not come back at one time: half to one and a half of it, by `jitter` from 0 to 1.
    pub(crate) fn delay(self, first: Duration, jitter: f64) -> Duration {
        let doublings = match self {
            Self::First => 0,
            Self::Backoff(tries) => u32::try_from(tries.clamp(1, 7) - 1).unwrap_or(0),
        };
        let wait = first.saturating_mul(1 << doublings).mul_f64(0.5 + jitter.clamp(0.0, 1.0));
        // Postgres counts no nanoseconds.
        Duration::from_micros(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Decides what follows the end of an attempt.
pub(crate) fn after_step(job: &JobView, step: EndedStep, outcome: StepOutcome) -> Next {
    let outcome = match outcome {
        StepOutcome::Lost | StepOutcome::GivenUp(_) | StepOutcome::Failed(_)
            if job.cancel_requested && step.kind != StepKind::ReleaseSnapshot =>
        {
            StepOutcome::Cancelled
        }
        other => other,
    };
    match step.kind {
        StepKind::TakeSnapshot => after_take_snapshot(job, step, outcome),
        StepKind::TransferData => after_transfer(job, step, outcome),
        StepKind::ReleaseSnapshot => after_release(job, step, outcome),
    }
}

/// Decides what a request to cancel does to a running job whose `pending` step is not claimed. (One that is out is told
/// to stop, and its report decides.)
pub(crate) fn cancel_pending(job: &JobView, pending: StepKind) -> Option<Next> {
    match pending {
        StepKind::ReleaseSnapshot => None,
        StepKind::TransferData if job.has_snapshot => {
            Some(release_after(StepState::Skipped, JobError::cancelled()))
        }
        StepKind::TakeSnapshot | StepKind::TransferData => Some(Next::End {
            state: StepState::Skipped,
            skip: following(pending),
            job: JobState::Cancelled,
            error: Some(JobError::cancelled()),
        }),
    }
}

fn after_take_snapshot(job: &JobView, step: EndedStep, outcome: StepOutcome) -> Next {
    let end = |state, error| Next::End {
        state: StepState::Failed,
        skip: vec![StepKind::TransferData, StepKind::ReleaseSnapshot],
        job: state,
        error: Some(error),
    };
    match outcome {
        StepOutcome::Done if job.cancel_requested => Next::Advance {
            state: StepState::Done,
            ready: StepKind::ReleaseSnapshot,
            skip: vec![StepKind::TransferData],
            error: Some(JobError::cancelled()),
        },
        StepOutcome::Done => Next::Advance {
            state: StepState::Done,
            ready: StepKind::TransferData,
            skip: Vec::new(),
            error: None,
        },
        StepOutcome::Cancelled => end(JobState::Cancelled, JobError::cancelled()),
        StepOutcome::Lost if step.tries < MAX_TRIES => Next::Retry { delay: Retry::First },
        StepOutcome::Lost => end(JobState::Failed, JobError::agent_lost()),
        StepOutcome::GivenUp(error) => end(JobState::Failed, error),
        StepOutcome::Failed(error) if error.retryable && step.tries < MAX_TRIES => {
            Next::Retry { delay: Retry::Backoff(step.tries) }
        }
        StepOutcome::Failed(error) => end(JobState::Failed, error),
    }
}

fn after_transfer(job: &JobView, step: EndedStep, outcome: StepOutcome) -> Next {
    match outcome {
        StepOutcome::Done => Next::Advance {
            state: StepState::Done,
            ready: StepKind::ReleaseSnapshot,
            skip: Vec::new(),
            error: None,
        },
        StepOutcome::Cancelled => release_after(StepState::Failed, JobError::cancelled()),
        StepOutcome::Lost if step.tries < MAX_TRIES => Next::Retry { delay: Retry::First },
        StepOutcome::Lost => release_after(StepState::Failed, JobError::agent_lost()),
        StepOutcome::GivenUp(error) => release_after(StepState::Failed, error),
        StepOutcome::Failed(error) if error.code == SNAPSHOT_LOST && job.round < MAX_ROUNDS => {
            Next::SnapshotAgain
        }
        StepOutcome::Failed(error) if error.code == SNAPSHOT_LOST => release_after(StepState::Failed, error),
        StepOutcome::Failed(error) if error.retryable && step.tries < MAX_TRIES => {
            Next::Retry { delay: Retry::Backoff(step.tries) }
        }
        StepOutcome::Failed(error) => release_after(StepState::Failed, error),
    }
}

fn after_release(job: &JobView, step: EndedStep, outcome: StepOutcome) -> Next {
    let (state, warning) = match outcome {
        StepOutcome::Done => (StepState::Done, None),
        StepOutcome::Lost if step.tries < MAX_TRIES => return Next::Retry { delay: Retry::First },
        StepOutcome::Failed(error) if error.retryable && step.tries < MAX_TRIES => {
            return Next::Retry { delay: Retry::Backoff(step.tries) };
        }
        StepOutcome::Failed(error) | StepOutcome::GivenUp(error) => (StepState::Failed, Some(error)),
        StepOutcome::Lost | StepOutcome::Cancelled => (StepState::Failed, Some(JobError::agent_lost())),
    };
    let warning = warning.or_else(|| job.warning.clone().filter(|_| job.has_point));
    let (job_state, error) = match (&job.error, job.has_point) {
        (_, true) if warning.is_some() => (JobState::SucceededWithWarnings, warning),
        (_, true) => (JobState::Succeeded, None),
        (Some(error), false) if error.code == JobError::cancelled().code => {
            (JobState::Cancelled, Some(error.clone()))
        }
        (error, false) => (JobState::Failed, error.clone().or(warning)),
    };
    Next::End { state, skip: Vec::new(), job: job_state, error }
}

fn release_after(state: StepState, error: JobError) -> Next {
    Next::Advance { state, ready: StepKind::ReleaseSnapshot, skip: Vec::new(), error: Some(error) }
}

fn following(kind: StepKind) -> Vec<StepKind> {
    StepKind::IN_ORDER.into_iter().skip_while(|other| *other != kind).skip(1).collect()
}

#[cfg(test)]
mod tests;
