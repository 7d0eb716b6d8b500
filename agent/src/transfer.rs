//! The transfer of a snapshot's disks to a gateway: scan, compare, compress, send, commit; again from the start of
//! the scan after every lost connection, with what the gateway keeps laid over the base, so that nothing is sent twice.

mod answer;
mod base;
mod compress;
pub(crate) mod disk_place;
mod disk_scan;
mod disk_wait;
mod error;
mod gather;
mod map_file;
mod map_run;
pub(crate) mod map_store;
mod meter;
mod pass;
mod reader;
mod remote_map;
mod scan;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::address::Address;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::context::Context;
use crate::context::StepFailure;
use crate::dial::Dialer;
use crate::snapshot::Snapshot;
use disk_place::DiskPlaces;
use error::TransferError;
use map_store::MapStore;
use meter::Meter;

/// How often progress is reported.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);
/// Passes in a row that end with an internal error, or a map that is damaged again, before the attempt fails.
const MAX_FAULTS: u32 = 4;
/// How long an attempt that has ended waits for its scans: a read that hangs in the kernel must not keep it.
const SCANS_END: Duration = Duration::from_secs(10);

/// One attempt to transfer one snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) config: Arc<Config>,
    pub(crate) dialer: Dialer,
    /// In order of preference, all of them allowed.
    pub(crate) gateways: Vec<Address>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) maps: Arc<MapStore>,
    pub(crate) places: DiskPlaces,
}

impl Transfer {
    /// Transfers until the point is committed. Returns the point's id.
    ///
    /// # Errors
    /// If it was told to stop, the snapshot broke, a disk cannot be read, the gateway refuses, or no gateway could be
    /// reached for `transfer_patience`.
    pub(crate) async fn run(&self, context: &Context) -> Result<String, StepFailure> {
        let meter = Arc::new(Meter::new(self.snapshot.disks.iter().map(|disk| disk.size_bytes).sum()));
        let scans = TaskTracker::new();
        let result = {
            let work = self.until_committed(context, &meter, &scans);
            tokio::pin!(work);
            let mut ticks = tokio::time::interval(PROGRESS_PERIOD);
            loop {
                tokio::select! {
                    () = context.stop.cancelled() => break Err(StepFailure::Cancelled),
                    result = &mut work => break result.map_err(StepFailure::from),
                    _ = ticks.tick() => context.progress(meter.progress()),
                }
            }
        };
        // The scan threads hold the snapshot; if the disk lets them, it is free when the attempt has ended.
        scans.close();
        if tokio::time::timeout(SCANS_END, scans.wait()).await.is_err() {
            tracing::warn!(attempt = %context.attempt, "a disk does not answer; its scan is left alone");
        }
        result
    }

    async fn until_committed(
        &self,
        context: &Context,
        meter: &Arc<Meter>,
        scans: &TaskTracker,
    ) -> Result<String, TransferError> {
        let timing = &self.config.timing;
        let mut backoff = Backoff::new(timing.reconnect_min, timing.reconnect_max);
        let mut last_success = Instant::now();
        let mut furthest = 0;
        let mut faults = 0;
        loop {
            let acknowledged = meter.acknowledged_bytes();
            meter.begin_pass();
            let error = match Box::pin(self.pass(context, meter, scans)).await {
                Ok(point_id) => return Ok(point_id),
                Err(TransferError::MapDamaged { disk }) => {
                    tracing::warn!(disk, "the local block map is damaged; it is fetched from the gateway");
                    self.maps.discard(&disk);
                    faults += 1;
                    if faults < MAX_FAULTS {
                        continue;
                    }
                    TransferError::MapDamaged { disk }
                }
                Err(error) => error,
            };
            if meter.acknowledged_bytes() > acknowledged {
                last_success = Instant::now();
                backoff.reset();
                faults = 0;
            }
            // Where nothing differs there is nothing to acknowledge, for hours if the disk is large: then the outage begins when the
            // pass ends. One that gets no further than those before it is no success, or a commit that always fails would be tried
            // for ever.
            let read = meter.progress().read_bytes;
            if read > furthest {
                furthest = read;
                last_success = Instant::now();
            }
            faults += u32::from(error.is_fault());
            if !error.is_loss() || faults >= MAX_FAULTS || last_success.elapsed() > timing.transfer_patience {
                return Err(error);
            }
            let wait = backoff.next_wait();
            tracing::warn!(
                attempt = %context.attempt,
                error = crate::error::chain(&error),
                wait_ms = wait.as_millis(),
                "the transfer is interrupted and goes on after a wait"
            );
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests;
