//! Learning at the start what is stored, so that it need not be stored again.

use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Gateway;

impl Gateway {
    /// Reads the directories of all segments, once; until it is through, cells that are stored may be stored again. Does nothing
    /// if the vault does not deduplicate.
    pub async fn learn_samples(self, shutdown: CancellationToken) {
        let started = Instant::now();
        let learnt = tokio::select! {
            learnt = self.inner.vault.learn_samples(|_| {}) => learnt,
            () = shutdown.cancelled() => return,
        };
        match learnt {
            Ok(stats) => info!(?stats, took = ?started.elapsed(), "it is known what the vault has stored"),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "not all that the vault has stored is known: some of it may be stored again"
            ),
        }
    }
}
