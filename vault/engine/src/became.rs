use uuid::Uuid;

use crate::event::PointNames;
use crate::settled::Fate;
use crate::standing::{Lock, PointState};
use crate::{Outcome, Point, Vault, VaultError, name};

/// What became of a backup.
pub(crate) enum Became {
    /// A point that is not purged, and what holds it.
    Point(Point, Option<Lock>),
    Settled(Fate),
}

impl Vault {
    /// What became of a backup, as far as it is remembered.
    pub(crate) fn fate(&self, machine: Uuid, seq: u64, names: &PointNames) -> Option<Fate> {
        self.inner.settled.fate(machine, seq, names.stamp(seq)?)
    }

    /// What became of one of these backups, all of which are durable: what never changes is remembered.
    pub(crate) async fn became(
        &self,
        machine: Uuid,
        seq: u64,
        names: &PointNames,
    ) -> Result<Became, VaultError> {
        if let Some(fate) = self.fate(machine, seq, names) {
            return Ok(Became::Settled(fate));
        }
        let standing = self.standing_by(machine, seq, names.events.get(&seq)).await?;
        let fate = if standing.state == PointState::Purged {
            Fate::Purged
        } else {
            match self.look(machine, seq).await? {
                Some(Outcome::Point(point)) => return Ok(Became::Point(point, standing.lock)),
                Some(Outcome::Aborted { .. }) => Fate::Aborted,
                None => return Err(VaultError::Missing { object: name::point(machine, seq) }),
            }
        };
        if let Some(stamp) = names.stamp(seq) {
            self.inner.settled.remember(machine, seq, stamp, fate);
        }
        Ok(Became::Settled(fate))
    }
}
