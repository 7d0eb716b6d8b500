//! The reconcilers. Each is idempotent, takes no input and relies on its next period instead of retries; any number of
//! controllers may run all of them.

mod collect;
mod dispatch;
mod enforce;
mod flush;
mod periodic;
mod reap;
mod retain;
mod schedule;
mod verify;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::{Instrument as _, error, error_span};

use holdfast_gateway::{Gateway, Scrub};

use crate::app::App;
use crate::config::RetentionConfig;
use crate::store::StoreError;

use periodic::{Turns, repeat};

/// So long a pass that only asks the database may take.
const DATABASE_PASS: Option<Duration> = Some(Duration::from_secs(120));
/// One that reads the vault takes as long as that takes; what it asks the database, it asks by [`answer`].
const VAULT_PASS: Option<Duration> = None;

/// What the vault's upkeep needs.
#[derive(Debug)]
struct Upkeep {
    app: Arc<App>,
    gateway: Gateway,
    retention: RetentionConfig,
    scrub: Mutex<Scrub>,
}

/// Starts all of them; they end with the application's shutdown token.
pub(crate) fn spawn(app: &Arc<App>, gateway: &Gateway, retention: RetentionConfig) {
    let timing = &app.timing;
    periodic(app, app, DATABASE_PASS, "dispatch", timing.dispatch, dispatch::pass);
    periodic(app, app, DATABASE_PASS, "schedule", timing.schedule, schedule::pass);
    periodic(app, app, DATABASE_PASS, "progress", timing.progress_flush, flush::progress);
    periodic(app, app, DATABASE_PASS, "liveness", timing.liveness_flush, flush::liveness);
    periodic(app, app, DATABASE_PASS, "reap", timing.dispatch.max(timing.agent_lost_after / 6), reap::pass);
    periodic(app, app, DATABASE_PASS, "forget", Duration::from_secs(3600), reap::forget);
    let scrub = Mutex::new(gateway.scrub(timing.verify.mul_f64(1.0 - verify::DUE)));
    let upkeep = Arc::new(Upkeep { app: Arc::clone(app), gateway: gateway.clone(), retention, scrub });
    periodic(app, &upkeep, VAULT_PASS, "retain", retention.apply, retain::pass);
    periodic(app, &upkeep, VAULT_PASS, "verify", verify::LOOK.min(timing.verify), verify::pass);
    periodic(app, &upkeep, VAULT_PASS, "enforce", enforce::LOOK, enforce::pass);
    periodic(app, &upkeep, VAULT_PASS, "collect", retention.collect / collect::LOOKS, collect::pass);
}

/// One answer of the database, which a database that vanished never gives.
async fn answer<T>(
    operation: &'static str,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, asked).await.unwrap_or(Err(StoreError::TimedOut { operation, limit }))
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
    limit: Option<Duration>,
    name: &'static str,
    period: Duration,
    pass: fn(Arc<C>) -> F,
) where
    C: Send + Sync + 'static,
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let context = Arc::clone(context);
    let woken = (name == "dispatch").then(|| app.sessions.changes());
    let turns = Turns { period, limit, woken, shutdown: app.shutdown.clone() };
    let work = repeat(turns, move || pass(Arc::clone(&context)));
    app.tracker.spawn(work.instrument(error_span!("task", name)));
}
