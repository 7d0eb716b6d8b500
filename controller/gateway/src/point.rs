//! Deciding about points that exist: the vault decides, the catalogue follows.

use chrono::{DateTime, Utc};
use tonic::Status;

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{Action, LockMode, Standing};

use crate::error::status_of;
use crate::retry::within;
use crate::{Gateway, PointLocation};

/// What an operator, or a policy, decides about a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It can be taken back for as long as [`crate::GatewayConfig::delete_window`] says.
    Delete,
    Undelete,
    Lock {
        mode: LockMode,
        until: DateTime<Utc>,
    },
    Unlock,
}

/// Where a point stands, for the catalogue.
#[derive(Clone, Debug)]
pub struct Decided {
    pub machine: MachineId,
    pub seq: u64,
    pub standing: Standing,
    pub actor: String,
    /// For the audit.
    pub action: &'static str,
}

impl Decision {
    fn audited(self) -> &'static str {
        match self {
            Self::Delete => "point.delete",
            Self::Undelete => "point.undelete",
            Self::Lock { .. } => "point.lock",
            Self::Unlock => "point.unlock",
        }
    }
}

impl Gateway {
    /// Decides, and tells the catalogue. What is so already is no error.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if it may not be, or if it is locked and the storage does not enforce that as it has to. After any other it
    /// may have been decided: ask again.
    pub async fn decide_point(
        &self,
        location: PointLocation,
        decision: Decision,
        actor: &str,
    ) -> Result<(), Status> {
        let PointLocation { machine, seq } = location;
        let action = match decision {
            Decision::Delete => Action::Delete { window_seconds: self.inner.config.delete_window.as_secs() },
            Decision::Undelete => Action::Undelete,
            Decision::Lock { mode, until } => Action::Lock { mode, until: until.timestamp_micros() },
            Decision::Unlock => Action::Unlock,
        };
        let decided = self.inner.vault.decide_point(machine.0, seq, action, actor).await;
        let standing = decided.map_err(|error| status_of(&error))?;
        self.record_standing(location, standing, actor, decision.audited()).await?;
        match decision {
            Decision::Lock { .. } => self.enforce_lock(location).await,
            Decision::Delete | Decision::Undelete | Decision::Unlock => Ok(()),
        }
    }

    /// Reads where a point stands and tells the catalogue.
    pub(crate) async fn follow_point(&self, location: PointLocation) -> Result<(), Status> {
        let standing = self.inner.vault.standing(location.machine.0, location.seq).await;
        let standing = standing.map_err(|error| status_of(&error))?;
        self.record_standing(location, standing, "gateway", "point.follow").await
    }

    async fn record_standing(
        &self,
        location: PointLocation,
        standing: Standing,
        actor: &str,
        action: &'static str,
    ) -> Result<(), Status> {
        let PointLocation { machine, seq } = location;
        let decided = Decided { machine, seq, standing, actor: actor.to_owned(), action };
        within(self.inner.authority.record_standing(&decided)).await
    }
}
