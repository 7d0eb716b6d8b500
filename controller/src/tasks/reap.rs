use std::sync::Arc;

use tracing::{info, warn};

use crate::app::App;
use crate::domain::backup::Retry;
use crate::store::StoreError;

use super::go_on;

/// Ends what nobody reports on any more.
pub(super) async fn pass(app: Arc<App>) -> Result<(), StoreError> {
    if !app.sessions.has_known_for(app.timing.agent_lost_after) {
        return Ok(());
    }
    app.store.drop_silent_sessions(app.timing.agent_lost_after * 2).await?;
    let longest_wait = Retry::Backoff(i32::MAX).delay(app.timing.retry_delay, 1.0);
    let undone = app.store.undo_leap(longest_wait, app.timing.agent_lost_after).await?;
    if undone > 0 {
        warn!(undone, "the database's clock was ahead: what it made wait for that waits no longer");
        app.sessions.wake();
    }
    for (step, attempt) in app.store.expired_leases().await? {
        let ended = app.store.end_expired(step, attempt, app.timing.retry_delay).await;
        if go_on("end an attempt", step, ended)? == Some(true) {
            info!(%step, attempt, "attempt lost: its lease is over");
            app.sessions.wake();
        }
    }
    let patience = app.timing.stalled_after;
    for stalled in app.store.stalled_attempts(app.controller_id, patience).await? {
        let ended = app.store.end_stalled(stalled, patience, app.timing.retry_delay).await;
        if go_on("end a stalled attempt", stalled.step, ended)? == Some(true) {
            warn!(step = %stalled.step, attempt = stalled.attempt, "attempt ended: it did not get on");
            // One that is away learns it from the answer to its next Hello.
            let _ = app.sessions.cancel(stalled.agent, (stalled.step, stalled.attempt));
            app.sessions.wake();
        }
    }
    for step in app.store.abandoned_steps(app.timing.give_up_after).await? {
        let ended = app.store.end_abandoned(step, app.timing.give_up_after).await;
        if go_on("end an abandoned job", step, ended)? == Some(true) {
            warn!(%step, "job given up: its agent has been away for too long");
            app.sessions.wake();
        }
    }
    for (job, machine) in app.store.overdue_jobs().await? {
        go_on("expire a job", job, app.store.expire_job(job, machine).await)?;
    }
    Ok(())
}

pub(super) async fn forget(app: Arc<App>) -> Result<(), StoreError> {
    app.store.forget_requests().await
}
