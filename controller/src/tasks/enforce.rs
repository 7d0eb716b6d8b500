use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::store::StoreError;

use super::Upkeep;

/// Between two looks for locks that the vault's storage does not enforce yet: because it failed to, or because a compliance lock could
/// still be taken back.
pub(super) const LOOK: Duration = Duration::from_secs(3600);

pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let Upkeep { app, gateway, .. } = &*upkeep;
    let enforced = tokio::select! {
        enforced = gateway.enforce_locks() => enforced,
        // What is retained already the next pass finds so.
        () = app.shutdown.cancelled() => return Ok(()),
    };
    if let Err(status) = enforced {
        warn!(reason = status.message(), "locks are not enforced; the next pass tries again");
    }
    Ok(())
}
