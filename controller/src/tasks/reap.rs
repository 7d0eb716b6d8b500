use std::sync::Arc;

use tracing::{info, warn};

use crate::app::App;
use crate::store::StoreError;

/// Ends what nobody reports on any more.
pub(super) async fn pass(app: Arc<App>) -> Result<(), StoreError> {
    if !app.sessions.has_known_for(app.timing.agent_lost_after) {
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
