//! Runs attempts: each once, the newest of a step only, and each ends in one terminal report.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error};
use holdfast_proto::ids::StepId;
use holdfast_proto::v1::{Cancelled, step_report::Outcome};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt::Attempt;
use crate::context::{Context, StepFailure};
use crate::outbox::Outbox;
use crate::spool::Spool;
use crate::step::{Steps, Work};

/// Most attempts that run at once; a controller that sends more is not one of ours.
const MAX_RUNNING: usize = 256;

/// The attempts of this process.
#[derive(Debug)]
pub(crate) struct Runner {
    steps: Arc<Steps>,
    outbox: Arc<Outbox>,
    spool: Arc<Spool>,
    running: Arc<Mutex<HashMap<StepId, Arc<Running>>>>,
    tracker: TaskTracker,
}

/// One running attempt.
#[derive(Debug)]
struct Running {
    attempt: Attempt,
    stop: CancellationToken,
    /// Set if nobody wants to hear how it ends.
    silent: AtomicBool,
    ended: CancellationToken,
}

/// What becomes of an attempt that is to start.
enum Admission {
    First,
    /// When this one has ended.
    InsteadOf(Arc<Running>),
    /// It runs already, or a later one does.
    Known,
    TooMany,
}

impl Runner {
    pub(crate) fn new(steps: Arc<Steps>, outbox: Arc<Outbox>, spool: Arc<Spool>) -> Self {
        Self { steps, outbox, spool, running: Arc::default(), tracker: TaskTracker::new() }
    }

    /// Starts an attempt. One that runs or has ended already is left alone; a lower one of the same step stops
    /// first. Where too many run, it has failed, which is told: otherwise the controller would wait for it.
    pub(crate) async fn dispatch(&self, attempt: Attempt, work: Work) {
        if self.spool.holds(attempt) {
            return;
        }
        let started = Arc::new(Running {
            attempt,
            stop: CancellationToken::new(),
            silent: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        let before = match self.admit(&started) {
            Admission::First => None,
            Admission::InsteadOf(before) => Some(before),
            Admission::Known => return,
            Admission::TooMany => {
                tracing::error!(%attempt, "too many attempts run already; this one is refused");
                let detail = agent_error("too_many_attempts", "the agent runs as many attempts as it can");
                self.outbox.finish(attempt, 1, Outcome::Failed(detail.retryable())).await;
                return;
            }
        };
        if let Some(before) = &before {
            before.silent.store(true, Ordering::Relaxed);
            before.stop.cancel();
        }
        tracing::info!(%attempt, work = work.name(), "attempt started");
        let (steps, outbox, running) =
            (Arc::clone(&self.steps), Arc::clone(&self.outbox), Arc::clone(&self.running));
        self.tracker.spawn(async move {
            if let Some(before) = before {
                before.ended.cancelled().await;
            }
            run(steps, outbox, &started, work).await;
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            if running.get(&attempt.step).is_some_and(|current| current.attempt == attempt) {
                running.remove(&attempt.step);
            }
            drop(running);
            started.ended.cancel();
        });
    }

    fn admit(&self, started: &Arc<Running>) -> Admission {
        let mut running = self.lock();
        let is_full = running.len() >= MAX_RUNNING;
        match running.entry(started.attempt.step) {
            Entry::Occupied(mut entry) if entry.get().attempt.number < started.attempt.number => {
                Admission::InsteadOf(entry.insert(Arc::clone(started)))
            }
            Entry::Occupied(_) => Admission::Known,
            Entry::Vacant(_) if is_full => Admission::TooMany,
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(started));
                Admission::First
            }
        }
    }

    /// Stops an attempt, which then reports that it was cancelled.
    pub(crate) fn cancel(&self, attempt: Attempt) {
        if let Some(running) = self.find(attempt) {
            running.stop.cancel();
        }
    }

    /// Stops an attempt that nobody wants to hear of any more.
    pub(crate) fn abandon(&self, attempt: Attempt) {
        if let Some(running) = self.find(attempt) {
            tracing::info!(%attempt, "attempt abandoned");
            running.silent.store(true, Ordering::Relaxed);
            running.stop.cancel();
        }
    }

    /// Stops everything; nobody wants to hear of any of it.
    pub(crate) fn abandon_all(&self) {
        for attempt in self.running() {
            self.abandon(attempt);
        }
    }

    /// Forgets the result of an attempt that is not current any more, or stops it if it still runs.
    pub(crate) fn drop_stale(&self, attempt: Attempt) {
        self.abandon(attempt);
        if let Some(outcome) = self.spool.find(attempt).and_then(|report| report.outcome) {
            self.steps.discard(&outcome);
        }
    }

    /// The attempts that run now.
    pub(crate) fn running(&self) -> Vec<Attempt> {
        self.lock().values().map(|running| running.attempt).collect()
    }

    /// Stops everything without reports: the controller hears at the next Hello that nothing runs.
    pub(crate) async fn shut_down(&self) {
        self.abandon_all();
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn find(&self, attempt: Attempt) -> Option<Arc<Running>> {
        self.lock().get(&attempt.step).filter(|running| running.attempt == attempt).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StepId, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(steps: Arc<Steps>, outbox: Arc<Outbox>, running: &Running, work: Work) {
    let attempt = running.attempt;
    let context = Context::new(attempt, running.stop.clone(), Arc::clone(&outbox));
    let step = tokio::spawn({
        let (steps, context) = (Arc::clone(&steps), context.clone());
        async move { steps.run(&context, work).await }
    });
    let outcome = match step.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(StepFailure::Cancelled)) => Outcome::Cancelled(Cancelled {}),
        Ok(Err(StepFailure::Failed(detail))) => Outcome::Failed(*detail),
        Err(panic) => {
            tracing::error!(%attempt, %panic, "the attempt panicked");
            Outcome::Failed(agent_error("internal", "the agent hit an internal error; see its log"))
        }
    };
    if running.silent.load(Ordering::Relaxed) {
        outbox.discard_progress(attempt);
        steps.discard(&outcome);
        return;
    }
    match &outcome {
        Outcome::Failed(detail) => {
            tracing::warn!(%attempt, code = detail.code, message = detail.message, "attempt failed");
        }
        Outcome::Cancelled(_) => tracing::info!(%attempt, "attempt cancelled"),
        _ => tracing::info!(%attempt, "attempt done"),
    }
    outbox.finish(attempt, context.next_sequence(), outcome).await;
}
