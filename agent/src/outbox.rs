//! What waits to be told to the controller: the newest progress of each attempt, and the spool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::v1::{Progress, StepReport, step_report::Outcome};
use tokio::sync::Notify;

use crate::attempt::Attempt;
use crate::blocking::blocking;
use crate::crash_point::crash_point;
use crate::spool::Spool;

/// Reports on their way. Bounded: one progress per running attempt, one terminal report per ended one.
#[derive(Debug)]
pub(crate) struct Outbox {
    spool: Arc<Spool>,
    progress: Mutex<HashMap<Attempt, StepReport>>,
    changed: Notify,
}

impl Outbox {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, progress: Mutex::default(), changed: Notify::new() }
    }

    /// Tells how far an attempt is; replaces what was not sent yet.
    pub(crate) fn progress(&self, attempt: Attempt, sequence: i64, progress: Progress) {
        let report = StepReport {
            attempt: Some(attempt.to_wire()),
            sequence,
            outcome: Some(Outcome::Progress(progress)),
        };
        self.lock().insert(attempt, report);
        self.changed.notify_one();
    }

    /// Tells how an attempt ended. Returns when the report is durable.
    pub(crate) async fn finish(&self, attempt: Attempt, sequence: i64, outcome: Outcome) {
        let report = StepReport { attempt: Some(attempt.to_wire()), sequence, outcome: Some(outcome) };
        let spool = Arc::clone(&self.spool);
        match blocking(move || spool.put(attempt, report)).await {
            Ok(()) => crash_point("agent::report_spooled"),
            Err(error) => tracing::error!(error = crate::error::chain(&error), "report not durable"),
        }
        self.discard_progress(attempt);
        self.changed.notify_one();
    }

    /// Forgets progress that was not sent yet.
    pub(crate) fn discard_progress(&self, attempt: Attempt) {
        self.lock().remove(&attempt);
    }

    /// Takes the progress that was not sent yet.
    pub(crate) fn take_progress(&self) -> Vec<StepReport> {
        self.lock().drain().map(|(_, report)| report).collect()
    }

    /// Waits until there may be something new.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Attempt, StepReport>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
