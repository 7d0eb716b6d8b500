//! Where a point stands after all that was decided about it. Pure: one table of what may follow what.

use std::time::Duration;

use chrono::{DateTime, Utc};

use holdfast_vault_format::event::{Action, Event, LockMode};

use crate::retention::Retention;

/// How long a compliance lock can still be taken back.
pub const COOLING_OFF: Duration = Duration::from_secs(72 * 3600);

/// Where a point stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub state: PointState,
    pub lock: Option<Lock>,
    /// How many decisions led here: the number of the last one.
    pub decisions: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PointState {
    #[default]
    Listed,
    /// Nothing of it is gone yet.
    SoftDeleted(Deletion),
    /// What only it needs is being removed, or is gone.
    Purged,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    pub at: DateTime<Utc>,
    pub actor: String,
    /// How much of the vault's time has to pass before it is purged.
    pub window: Duration,
    /// The newest collection at that time: the window begins at the next one.
    pub(crate) epoch: u64,
    /// Of its event.
    pub(crate) number: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    pub mode: LockMode,
    pub until: DateTime<Utc>,
    /// Since when it is as strict as it is: what the cooling-off period counts from.
    pub since: DateTime<Utc>,
}

/// The instants between which it may be, if the clock of whoever asks or that of the vault is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) earliest: DateTime<Utc>,
    pub(crate) latest: DateTime<Utc>,
}

/// Why something cannot be done to a point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is locked until {}", until.format("%Y-%m-%dT%H:%M:%SZ"))]
    Locked { until: DateTime<Utc> },
    #[error("its compliance lock cannot be taken back any more")]
    Compliance,
    #[error("a lock is never shortened or weakened: it ends at {}", until.format("%Y-%m-%dT%H:%M:%SZ"))]
    Shortened { until: DateTime<Utc> },
    #[error(
        "whether its compliance lock is over cannot be told: it ends at {}, and the clock and the vault's time differ",
        until.format("%Y-%m-%dT%H:%M:%SZ")
    )]
    Doubtful { until: DateTime<Utc> },
    #[error("the lock would end in the past")]
    Past,
    #[error("it was deleted: undelete it first")]
    Deleted,
    #[error("it was deleted, and its window is over")]
    Purged,
    #[error("it was not deleted")]
    Listed,
}

impl Standing {
    /// After all that was decided, in its order.
    #[must_use]
    pub fn after(events: &[Event]) -> Self {
        let mut standing = Self::default();
        for event in events {
            standing.apply(event);
        }
        standing
    }

    /// What may follow: `Ok(None)` if it is so already.
    pub(crate) fn check(&self, action: Action, now: Now) -> Result<Option<Action>, Refusal> {
        use PointState::{Listed, Purged, SoftDeleted};
        match (&self.state, action) {
            (Purged, Action::Purge)
            | (SoftDeleted(_), Action::Delete { .. })
            | (Listed, Action::Undelete) => Ok(None),
            (Purged, _) => Err(Refusal::Purged),
            (Listed, Action::Delete { .. }) => match self.lock {
                Some(lock) if lock.until > now.earliest => Err(Refusal::Locked { until: lock.until }),
                _ => Ok(Some(action)),
            },
            // Whether the window is over is the collector's to say.
            (SoftDeleted(_), Action::Undelete | Action::Purge) => Ok(Some(action)),
            (SoftDeleted(_), Action::Lock { .. }) => Err(Refusal::Deleted),
            (Listed, Action::Lock { mode, until }) => self.check_lock(mode, instant(until), now),
            (Listed | SoftDeleted(_), Action::Unlock) => match self.lock {
                None => Ok(None),
                Some(lock) if lock.mode == LockMode::Governance || now.latest < lock.since + COOLING_OFF => {
                    Ok(Some(action))
                }
                Some(_) => Err(Refusal::Compliance),
            },
            (Listed, Action::Purge) => Err(Refusal::Listed),
        }
    }

    /// What the storage has to enforce now. Of a compliance lock nothing before it is final: what a server retains so, nobody can take
    /// back.
    pub(crate) fn retention(&self, now: Now) -> Option<Retention> {
        let lock = self.lock.filter(|lock| lock.until > now.latest)?;
        let is_final = lock.mode == LockMode::Governance || lock.since + COOLING_OFF <= now.earliest;
        is_final.then(|| Retention::new(lock.mode, lock.until))
    }

    fn check_lock(&self, mode: LockMode, until: DateTime<Utc>, now: Now) -> Result<Option<Action>, Refusal> {
        if until <= now.latest {
            return Err(Refusal::Past);
        }
        match self.lock {
            Some(lock) if (lock.mode, lock.until) == (mode, until) => Ok(None),
            Some(lock) if lock.until > now.earliest && (mode < lock.mode || until < lock.until) => {
                Err(Refusal::Shortened { until: lock.until })
            }
            // The next one would count as new, and could be taken back for three days, although this one cannot.
            Some(lock)
                if lock.mode == LockMode::Compliance
                    && now.earliest < lock.until
                    && lock.until <= now.latest =>
            {
                Err(Refusal::Doubtful { until: lock.until })
            }
            _ => Ok(Some(Action::Lock { mode, until: until.timestamp_micros() })),
        }
    }

    /// What an event that was stored makes of it.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.decisions = event.number;
        let at = instant(event.at);
        match event.action {
            Action::Delete { window_seconds } => {
                self.state = PointState::SoftDeleted(Deletion {
                    at,
                    actor: event.actor.clone(),
                    window: Duration::from_secs(window_seconds),
                    epoch: event.epoch,
                    number: event.number,
                });
            }
            Action::Undelete => self.state = PointState::Listed,
            Action::Lock { mode, until } => {
                // One that ran out is over: the next is a new one.
                let before = self.lock.filter(|lock| lock.mode == mode && lock.until > at);
                let since = before.map_or(at, |lock| lock.since);
                self.lock = Some(Lock { mode, until: instant(until), since });
            }
            Action::Unlock => self.lock = None,
            Action::Purge => self.state = PointState::Purged,
        }
    }
}

fn instant(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests;
