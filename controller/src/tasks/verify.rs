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

/// Reads everything that points need, a machine at a time, so that each is read within the period.
pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let Upkeep { app, gateway, .. } = &*upkeep;
    let claim = || answer("find a machine to verify", app.store.claim_verification(app.timing.verify));
    while let Some(machine) = claim().await? {
        let (progress, _) = mpsc::channel(1);
        let target = VerifyTarget::Machine(machine);
        let depth = VerifyDepth::ReadData;
        let verified = tokio::select! {
            verified = gateway.verify(target, depth, VerifyPace::Gentle, "schedule", progress) => verified,
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
