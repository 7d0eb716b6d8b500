use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::store::StoreError;
use crate::store::verify::{Held, Turn};

use super::{Upkeep, answer};

/// Between two looks for machines whose turn has come, at most.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// A machine's turn comes at this part of the period: a large one takes days to read. For the rest of the period what was read for one
/// machine counts for others.
pub(super) const DUE: f64 = 0.8;

/// A verification that goes on says so.
const RENEW: Duration = Duration::from_secs(3600);

/// A controller that stops does not wait longer for a database that does not answer: the turn is free after some hours anyway.
const LEAVE: Duration = Duration::from_secs(3);

/// Reads everything that points need, a machine at a time, so that each is read within the period.
pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let store = &upkeep.app.store;
    let period = upkeep.app.timing.verify.mul_f64(DUE);
    let claim = || answer("find a machine to verify", store.claim_verification(period));
    while let Some(turn) = claim().await? {
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW).await;
                if let Err(error) = store.renew_verification(&turn).await {
                    let machine = turn.machine;
                    warn!(%machine, error = &error as &dyn std::error::Error, "a verification is not renewed");
                }
            }
        };
        let done = tokio::select! {
            done = read(&upkeep, &turn) => done?,
            () = renewing => return Ok(()),
            // It may take hours, and would keep the controller from stopping.
            () = upkeep.app.shutdown.cancelled() => {
                let _ = tokio::time::timeout(LEAVE, store.leave_verification(&turn)).await;
                return Ok(());
            }
        };
        if done.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// Breaks where the vault does not answer: then the next machine is no better off.
async fn read(upkeep: &Upkeep, turn: &Turn) -> Result<ControlFlow<()>, StoreError> {
    let store = &upkeep.app.store;
    let machine = turn.machine;
    let mut scrub = upkeep.scrub.lock().await;
    let mut read_to = turn.read_to.clone();
    loop {
        let read = match scrub.read_part(machine, read_to.as_deref()).await {
            Ok(Some(to)) => {
                let recorded = answer("record a verification", store.record_verified_to(turn, &to)).await?;
                read_to = Some(to);
                match recorded {
                    Held::Yes => continue,
                    Held::No => Ok(()),
                }
            }
            Ok(None) => match answer("record a verification", store.end_verification(turn)).await? {
                Held::Yes => match scrub.confirm(machine).await {
                    // The turn has ended.
                    Err(status) => {
                        let reason = status.message();
                        warn!(%machine, reason, "what is called damaged stays so until the next turn, or until \
                            `holdfast vault check --machine MACHINE --read-data` finds it whole");
                        return Ok(ControlFlow::Break(()));
                    }
                    confirmed => confirmed,
                },
                Held::No => Ok(()),
            },
            Err(status) => Err(status),
        };
        let Err(status) = read else { return Ok(ControlFlow::Continue(())) };
        let reason = status.message();
        warn!(%machine, reason, "a machine is not verified; it is gone on with in some hours");
        return Ok(ControlFlow::Break(()));
    }
}
