//! What a gateway does while nobody calls it, and how it ends.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use holdfast_vault_engine::chain;

use crate::Gateway;
use crate::retry::within;

/// How often staging files are looked for, and how long they are left alone.
const SWEEP_PERIOD: Duration = Duration::from_secs(24 * 3600);
const STAGING_KEPT: Duration = Duration::from_secs(24 * 3600);

impl Gateway {
    /// Runs until the token is cancelled. Then it ends the streams of agents, and returns when commits that began are through.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut swept = None;
        loop {
            tokio::select! {
                () = self.pass(&mut swept) => {}
                () = shutdown.cancelled() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(self.inner.config.resolve_period) => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.inner.stopping.cancel();
        self.inner.transfers.close_all();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// `swept`: when staging files were last looked for.
    async fn pass(&self, swept: &mut Option<Instant>) {
        if swept.is_none_or(|at| at.elapsed() >= SWEEP_PERIOD) {
            *swept = Some(Instant::now());
            self.sweep_staging().await;
            self.inner.vault.keep_reserve().await;
        }
        self.forget_idle().await;
        if let Err(status) = self.resolve().await {
            warn!(reason = status.message(), "open ends are not settled; the next pass tries again");
        }
    }

    /// What killed gateways left only takes space: if it cannot be removed now, it can tomorrow.
    async fn sweep_staging(&self) {
        match self.inner.vault.sweep_staging(STAGING_KEPT).await {
            Ok(0) => {}
            Ok(count) => info!(count, "staging files of killed gateways are removed"),
            Err(error) => warn!(reason = chain(&error), "staging files are not swept"),
        }
    }

    /// Forgets transfers that nobody calls and whose attempt is over. The others stay: an agent that finds nothing to send
    /// is silent for as long as it reads its disks.
    async fn forget_idle(&self) {
        for transfer in self.inner.transfers.idle(self.inner.config.idle_timeout) {
            match within(self.inner.authority.is_live(transfer.step, transfer.attempt)).await {
                Ok(true) => transfer.touch(),
                Ok(false) => self.inner.transfers.remove(&transfer),
                Err(status) => {
                    warn!(machine = %transfer.machine, reason = status.message(), "an idle transfer stays");
                }
            }
        }
    }
}
