use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::app::App;
use crate::store::StoreError;

/// Ends what nobody reports on any more.
pub(super) async fn pass(app: Arc<App>) -> Result<(), StoreError> {
    if !grace_is_over(&app) {
        return Ok(());
    }
    app.store.drop_silent_sessions(app.timing.agent_lost_after * 2).await?;
    for (step, attempt) in app.store.expired_leases().await? {
        if app.store.end_expired(step, attempt, app.timing.retry_delay).await? {
            info!(%step, attempt, "attempt lost: its lease is over");
            app.sessions.wake();
        }
    }
    for step in app.store.abandoned_steps(app.timing.give_up_after).await? {
        app.store.give_up_step(step, app.timing.retry_delay).await?;
        warn!(%step, "step given up: its agent has been away for too long");
    }
    app.store.expire_queued().await?;
    Ok(())
}

pub(super) async fn forget(app: Arc<App>) -> Result<(), StoreError> {
    app.store.forget_requests().await
}

/// Since when this controller can know who is alive.
static KNOWS_SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// A controller that has just started, or could not write down who lives, does not know who is dead.
fn grace_is_over(app: &App) -> bool {
    let mut since = KNOWS_SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    since.get_or_insert_with(Instant::now).elapsed() >= app.timing.agent_lost_after
}

/// The database was away: leases ran out that were not renewed for want of it.
pub(super) fn restart_grace() {
    *KNOWS_SINCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}
