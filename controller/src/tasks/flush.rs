use std::sync::Arc;

use crate::app::App;
use crate::session::end_over;
use crate::store::StoreError;

/// Writes the progress of all attempts in one statement.
pub(super) async fn progress(app: Arc<App>) -> Result<(), StoreError> {
    let updates = app.sessions.take_progress();
    if updates.is_empty() { Ok(()) } else { app.store.record_progress(&updates).await }
}

/// Writes who was heard of in one statement, which also renews their leases.
pub(super) async fn liveness(app: Arc<App>) -> Result<(), StoreError> {
    let heard = app.sessions.take_heard();
    if heard.sessions().is_empty() {
        heard.written();
        return Ok(());
    }
    let over =
        app.store.record_liveness(app.controller_id, heard.sessions(), app.timing.agent_lost_after).await?;
    heard.written();
    for (agent, epoch, why) in over {
        if let Some(live) = app.sessions.find(agent, epoch) {
            app.tracker.spawn(end_over(Arc::clone(&app), live, why));
        }
    }
    Ok(())
}
