use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use holdfast_proto::ids::MachineId;

use crate::store::StoreError;

use super::{Upkeep, answer};

/// Between two looks for machines whose turn has come, at most.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// A machine's turn comes at this part of the period: a large one takes days to read. For the rest of the period what was read for one
/// machine counts for others.
pub(super) const DUE: f64 = 0.8;

/// A verification that goes on says so.
const RENEW: Duration = Duration::from_secs(3600);

/// Segments that are read before the catalogue is told: 64 GiB, if they are full.
const PART: usize = 2048;

/// Reads everything that points need, a machine at a time, so that each is read within the period.
pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let store = &upkeep.app.store;
    let period = upkeep.app.timing.verify.mul_f64(DUE);
    let claim = || answer("find a machine to verify", store.claim_verification(period));
    while let Some((machine, read_to)) = claim().await? {
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW).await;
                if let Err(error) = store.renew_verification(machine).await {
                    warn!(%machine, error = &error as &dyn std::error::Error, "a verification is not renewed");
                }
            }
        };
        let done = tokio::select! {
            done = read(&upkeep, machine, read_to) => done?,
            () = renewing => return Ok(()),
            // It may take hours, and would keep the controller from stopping.
            () = upkeep.app.shutdown.cancelled() => {
                return answer("leave a verification", store.leave_verification(machine)).await;
            }
        };
        if done.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// Breaks where the vault does not answer: then the next machine is no better off.
async fn read(
    upkeep: &Upkeep,
    machine: MachineId,
    mut read_to: Option<String>,
) -> Result<ControlFlow<()>, StoreError> {
    let store = &upkeep.app.store;
    let mut scrub = upkeep.scrub.lock().await;
    loop {
        read_to = match scrub.read_part(machine, read_to.as_deref(), PART).await {
            Ok(read_to) => read_to,
            Err(status) => {
                let reason = status.message();
                warn!(%machine, reason, "a machine is not verified; it is gone on with in some hours");
                return Ok(ControlFlow::Break(()));
            }
        };
        match &read_to {
            Some(to) => answer("record a verification", store.record_verified_to(machine, to)).await?,
            None => {
                answer("record a verification", store.end_verification(machine)).await?;
                return Ok(ControlFlow::Continue(()));
            }
        }
    }
}
