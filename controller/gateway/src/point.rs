//! Deciding about points that exist: the vault decides, the catalogue follows.

use chrono::{DateTime, Utc};
use tonic::{Code, Status};

use holdfast_proto::error::{ErrorDetailExt as _, system_error};
use holdfast_vault_engine::{Action, LockMode};

use crate::error::status_of;
use crate::retry::within;
use crate::{CataloguedPoint, Decided, Gateway, PointLocation, crash_point};

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

impl Gateway {
    /// Decides, and tells the catalogue. What is so already is no error.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if it may not be, or if it is locked and the storage does not enforce that as it has to. DATA_LOSS
    /// (`decisions_lost`) if the storage lost what was decided before: a lock may be among it. After any other it may have been decided: ask
    /// again.
    pub async fn decide_point(
        &self,
        point: CataloguedPoint,
        decision: Decision,
        actor: &str,
    ) -> Result<(), Status> {
        let CataloguedPoint { location, decisions: known, .. } = point;
        let PointLocation { machine, seq } = location;
        let standing = self.inner.vault.standing(machine.0, seq).await.map_err(|error| status_of(&error))?;
        if standing.decisions < known {
            return Err(decisions_lost(standing.decisions, known));
        }
        let action = match decision {
            Decision::Delete => Action::Delete { window_seconds: self.inner.config.delete_window.as_secs() },
            Decision::Undelete => Action::Undelete,
            Decision::Lock { mode, until } => Action::Lock { mode, until: until.timestamp_micros() },
            Decision::Unlock => Action::Unlock,
        };
        let decided = self.inner.vault.decide_point(machine.0, seq, action, actor).await;
        decided.map_err(|error| status_of(&error))?;
        crash_point("gateway::decided");
        self.follow_point(location).await?;
        match decision {
            Decision::Lock { .. } => self.enforce_lock(location).await,
            Decision::Delete | Decision::Undelete | Decision::Unlock => Ok(()),
        }
    }

    /// Tells the catalogue what was decided about a point, whoever did.
    pub(crate) async fn follow_point(&self, location: PointLocation) -> Result<(), Status> {
        let PointLocation { machine, seq } = location;
        let events = self.inner.vault.events(machine.0, seq).await.map_err(|error| status_of(&error))?;
        within(self.inner.authority.record_standing(&Decided { machine, seq, events })).await
    }
}

fn decisions_lost(stored: u32, known: u32) -> Status {
    let message = format!("the vault has {stored} decisions about the point, but {known} were made");
    system_error("decisions_lost", message)
        .action("put the objects back whose names begin like the point's, such as from a copy of the vault's storage")
        .into_status(Code::DataLoss)
}
