use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::app::{App, crash_point};
use crate::store::StoreError;
use crate::store::claim::ClaimedStep;

const BATCH: i64 = 100;

/// Claims what is ready for the agents that are connected here, hands it out, and tells cancelled attempts to stop.
pub(super) async fn pass(app: Arc<App>) -> Result<(), StoreError> {
    while app.sessions.len() > 0 {
        let claimed = app
            .store
            .claim_steps(app.controller_id, BATCH, app.timing.agent_lost_after, app.limits.transfers)
            .await?;
        let full = i64::try_from(claimed.len()).is_ok_and(|count| count == BATCH);
        for step in claimed {
            if let Err(error) = hand_out(&app, &step).await {
                // Its lease ends it; the others of the batch must not wait for that.
                warn!(step = %step.step, error = &error as &dyn std::error::Error, "a claim is not taken back");
            }
        }
        if !full {
            break;
        }
    }
    for stop in app.store.attempts_to_stop(app.controller_id).await? {
        // An agent that is away learns it from the answer to its next Hello.
        let _ = app.sessions.cancel(stop.agent, (stop.step, stop.attempt));
    }
    Ok(())
}

async fn hand_out(app: &App, claimed: &ClaimedStep) -> Result<(), StoreError> {
    let sent = app.sessions.dispatch(claimed);
    crash_point("controller::dispatched");
    if sent.is_err() {
        debug!(step = %claimed.step, agent = %claimed.agent, "the session ended before the dispatch");
        app.store.undo_claim(claimed, app.controller_id).await?;
    } else {
        info!(step = %claimed.step, kind = claimed.kind.as_str(), attempt = claimed.attempt, agent = %claimed.agent, "dispatched");
    }
    Ok(())
}
