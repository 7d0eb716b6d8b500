//! What a running step sees of its attempt, and how it can fail. Below the runner and the steps, so that what the steps are
//! made of knows neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use holdfast_proto::v1::{ErrorDetail, Progress};
use tokio_util::sync::CancellationToken;

use crate::attempt::Attempt;
use crate::outbox::Outbox;

/// What a running step sees of its attempt.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) attempt: Attempt,
    pub(crate) stop: CancellationToken,
    outbox: Arc<Outbox>,
    sequence: Arc<AtomicI64>,
}

impl Context {
    pub(crate) fn new(attempt: Attempt, stop: CancellationToken, outbox: Arc<Outbox>) -> Self {
        Self { attempt, stop, outbox, sequence: Arc::new(AtomicI64::new(1)) }
    }

    /// Tells how far the step is. Not more than once a second.
    pub(crate) fn progress(&self, progress: Progress) {
        self.outbox.progress(self.attempt, self.next_sequence(), progress);
    }

    pub(crate) fn next_sequence(&self) -> i64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }
}

/// Why a step has no result.
#[derive(Debug)]
pub(crate) enum StepFailure {
    /// It was told to stop.
    Cancelled,
    Failed(Box<ErrorDetail>),
}

impl From<ErrorDetail> for StepFailure {
    fn from(detail: ErrorDetail) -> Self {
        Self::Failed(Box::new(detail))
    }
}
