use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::store::{Store, StoreError};

/// A database that starts together with the controller gets so long to come up.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);

/// Opens the catalogue; a database that cannot be reached is tried for a while.
pub(super) async fn connect(url: &str) -> Result<Store, StoreError> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match Store::connect(url).await {
            Err(error @ StoreError::Connect { .. }) if Instant::now() + PAUSE < deadline => {
                if !std::mem::replace(&mut told, true) {
                    let patience = PATIENCE.as_secs();
                    warn!(
                        error = &error as &dyn std::error::Error,
                        patience, "no database yet; trying again"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}
