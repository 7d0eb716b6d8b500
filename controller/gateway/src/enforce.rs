//! Locks carried out by the vault's storage, where it is asked to.

use std::time::Duration;

use chrono::Utc;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::{info, warn};

use holdfast_proto::error::{ErrorDetailExt as _, system_error};
use holdfast_vault_engine::{Enforced, VaultError, chain};

use crate::metrics::{ENFORCED_LOCKS, UNENFORCED_LOCKS};
use crate::retry::within;
use crate::{Gateway, PointLocation};

/// An operator who locks a point waits for so long; what is not done then is done by a later pass.
const PATIENCE: Duration = Duration::from_secs(15);

impl Gateway {
    /// One pass over the locks that the catalogue does not know to be enforced. Idempotent; any number of gateways may do it at once.
    ///
    /// # Errors
    /// If the catalogue does not answer. A lock that cannot be enforced is logged, and keeps no other one waiting.
    pub async fn enforce_locks(&self) -> Result<(), Status> {
        if !self.inner.vault.enforces_locks() {
            return Ok(());
        }
        self.inner.vault.sweep_probes(Utc::now()).await;
        for location in within(self.inner.authority.unenforced_locks()).await? {
            if let Err(Unenforced { reason, .. }) = self.enforce(location).await {
                self.failed(location, &reason);
            }
        }
        Ok(())
    }

    /// Has the storage enforce a lock that was just made.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if it does not: the point is locked, but by Holdfast alone.
    pub(crate) async fn enforce_lock(&self, location: PointLocation) -> Result<(), Status> {
        match timeout(PATIENCE, self.enforce(location)).await {
            Ok(Ok(())) => Ok(()),
            // It is seen at the point that it is not enforced yet.
            Err(_) => {
                self.failed(location, "it takes long");
                Ok(())
            }
            Ok(Err(Unenforced { reason, next_step })) => {
                self.failed(location, &reason);
                let wait =
                    "the controller tries again every hour; `holdfast point show POINT` tells when it is";
                Err(system_error(
                    "lock_not_enforced",
                    format!(
                        "the point is locked by Holdfast, but its storage does not enforce that: {reason}"
                    ),
                )
                .action(next_step.unwrap_or(wait))
                .into_status(Code::FailedPrecondition))
            }
        }
    }

    async fn enforce(&self, location: PointLocation) -> Result<(), Unenforced> {
        let PointLocation { machine, seq } = location;
        let Some(Enforced { due, retained }) =
            self.inner.vault.enforce_lock(machine.0, seq, Utc::now()).await?
        else {
            return Ok(());
        };
        within(self.inner.authority.record_retention(location, retained)).await?;
        if !retained.covers(due) {
            self.failed(
                location,
                "some of it is under governance retention, which this key may not make compliance",
            );
            return Ok(());
        }
        ENFORCED_LOCKS.add(1);
        info!(%machine, seq, ?retained, "the storage retains all that a locked point needs");
        Ok(())
    }

    fn failed(&self, location: PointLocation, reason: &str) {
        UNENFORCED_LOCKS.add(1);
        let PointLocation { machine, seq } = location;
        warn!(%machine, seq, reason, "a lock is not enforced by the storage; a later pass tries again");
    }
}

/// Why a lock is not enforced, and what an operator can do about it.
struct Unenforced {
    reason: String,
    next_step: Option<&'static str>,
}

impl From<VaultError> for Unenforced {
    fn from(error: VaultError) -> Self {
        Self { reason: chain(&error), next_step: error.next_step() }
    }
}

impl From<Status> for Unenforced {
    fn from(status: Status) -> Self {
        Self { reason: status.message().to_owned(), next_step: None }
    }
}
