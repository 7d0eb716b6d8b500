use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::warn;

use holdfast_gateway::VerifyTarget;
use holdfast_vault_engine::{VerifyDepth, VerifyPace};

use crate::store::StoreError;

use super::{Upkeep, answer};

/// Between two looks for machines whose turn has come, at most.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// A machine's turn comes at this part of the period: a large one takes days to read.
const DUE: f64 = 0.8;

/// A verification that goes on says so.
const RENEW: Duration = Duration::from_secs(3600);

/// Reads everything that points need, a machine at a time, so that each is read within the period.
pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let Upkeep { app, gateway, .. } = &*upkeep;
    let period = app.timing.verify.mul_f64(DUE);
    let claim = || answer("find a machine to verify", app.store.claim_verification(period));
    while let Some(machine) = claim().await? {
        let (progress, _) = mpsc::channel(1);
        let target = VerifyTarget::Machine(machine);
        let depth = VerifyDepth::ReadData;
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW).await;
                if let Err(error) = app.store.renew_verification(machine).await {
                    warn!(%machine, error = &error as &dyn std::error::Error, "a verification is not renewed");
                }
            }
        };
        let verified = tokio::select! {
            verified = gateway.verify(target, depth, VerifyPace::Gentle, "schedule", progress) => verified,
            () = renewing => return Ok(()),
            // It may take hours, and would keep the controller from stopping.
            () = app.shutdown.cancelled() => return Ok(()),
        };
        match verified {
            Ok(_) => answer("record a verification", app.store.end_verification(machine)).await?,
            Err(status) => {
                warn!(%machine, reason = status.message(), "a machine is not verified; it is tried again tomorrow");
                return Ok(());
            }
        }
    }
    Ok(())
}
