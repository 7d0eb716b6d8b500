//! The reconcilers. Each is idempotent, takes no input and relies on its next period instead of retries; any number of
//! controllers may run all of them.

mod collect;
mod dispatch;
mod enforce;
mod flush;
mod reap;
mod retain;
mod schedule;
mod verify;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument as _, error, error_span, warn};

use holdfast_gateway::Gateway;

use crate::app::App;
use crate::config::RetentionConfig;
use crate::store::StoreError;

/// What the vault's upkeep needs.
#[derive(Debug)]
struct Upkeep {
    app: Arc<App>,
    gateway: Gateway,
    retention: RetentionConfig,
}

/// Starts all of them; they end with the application's shutdown token.
pub(crate) fn spawn(app: &Arc<App>, gateway: &Gateway, retention: RetentionConfig) {
    let timing = &app.timing;
    periodic(app, app, "dispatch", timing.dispatch, dispatch::pass);
    periodic(app, app, "schedule", timing.schedule, schedule::pass);
    periodic(app, app, "progress", timing.progress_flush, flush::progress);
    periodic(app, app, "liveness", timing.liveness_flush, flush::liveness);
    periodic(app, app, "reap", timing.dispatch.max(timing.agent_lost_after / 6), reap::pass);
    periodic(app, app, "forget", Duration::from_secs(3600), reap::forget);
    let upkeep = Arc::new(Upkeep { app: Arc::clone(app), gateway: gateway.clone(), retention });
    periodic(app, &upkeep, "retain", retention.apply, retain::pass);
    periodic(app, &upkeep, "verify", verify::LOOK.min(timing.verify), verify::pass);
    periodic(app, &upkeep, "enforce", enforce::LOOK, enforce::pass);
    periodic(app, &upkeep, "collect", retention.collect / collect::LOOKS, collect::pass);
}

/// What fails for one is logged and left to the next pass, so that it keeps no other one waiting. An error only if the next
/// one would fail as well.
fn go_on<T>(
    what: &'static str,
    subject: impl Display,
    done: Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    match done {
        Err(error) if !error.is_out_of_reach() => {
            let error = &error as &dyn std::error::Error;
            error!(%subject, error, "failed to {what}; the next pass tries again");
            Ok(None)
        }
        done => done.map(Some),
    }
}

fn periodic<C, F>(
    app: &Arc<App>,
    context: &Arc<C>,
    name: &'static str,
    period: Duration,
    pass: fn(Arc<C>) -> F,
) where
    C: Send + Sync + 'static,
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let (app, context) = (Arc::clone(app), Arc::clone(context));
    let tracker = app.tracker.clone();
    let mut changes = app.sessions.changes();
    let work = async move {
        loop {
            if let Err(error) = pass(Arc::clone(&context)).await {
                warn!(
                    task = name,
                    error = &error as &dyn std::error::Error,
                    "pass failed; the next one tries again"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                Ok(()) = changes.changed(), if name == "dispatch" => {}
                () = app.shutdown.cancelled() => return,
            }
        }
    };
    tracker.spawn(work.instrument(error_span!("task", name)));
}
