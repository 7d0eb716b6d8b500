//! Deciding about points that exist. Each decision is one object, so of two at the same time one is the first.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use tracing::info;
use uuid::Uuid;

use holdfast_vault_format::collection::Collection;
use holdfast_vault_format::container::Kind;
use holdfast_vault_format::event::{Action, Event};

use crate::clock::now;
use crate::object::{self, Created};
use crate::settled::Stamp;
use crate::standing::{PointState, Standing};
use crate::{Outcome, Vault, VaultError, name};

/// How often somebody else may be faster.
const TRIES: u32 = 32;

/// What `points/<machine>/` holds.
#[derive(Debug, Default)]
pub(crate) struct PointNames {
    /// Points and aborts, with the time that the storage gives them.
    pub(crate) seqs: BTreeMap<u64, DateTime<Utc>>,
    /// The numbers of the events of each, ascending.
    pub(crate) events: BTreeMap<u64, Vec<u32>>,
    /// When the storage got them.
    pub(crate) stored_at: BTreeMap<(u64, u32), DateTime<Utc>>,
}

/// Whether the storage still has a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Stored,
    Lost,
}

impl PointNames {
    /// Of what is there and of what was decided about, also if that is lost: ascending.
    pub(crate) fn known(&self) -> BTreeSet<u64> {
        self.seqs.keys().chain(self.events.keys()).copied().collect()
    }

    pub(crate) fn stamp(&self, seq: u64) -> Option<Stamp> {
        let modified = *self.seqs.get(&seq)?;
        Some(Stamp { modified, events: self.events.get(&seq).map_or(0, Vec::len) })
    }
}

impl Vault {
    /// Decides something about a point and answers where it stands then. What is so already is no error.
    ///
    /// The caller knows that there was such a point: of one that the storage lost nothing else tells. It can be deleted, so that
    /// collections wait for it no longer.
    ///
    /// # Errors
    /// [`VaultError::Refused`] if it may not be.
    pub async fn decide_point(
        &self,
        machine: Uuid,
        seq: u64,
        action: Action,
        actor: &str,
    ) -> Result<Standing, VaultError> {
        let presence = self.presence(machine, seq).await?;
        if presence == Presence::Lost && matches!(action, Action::Lock { .. }) {
            return Err(VaultError::Missing { object: name::point(machine, seq) });
        }
        for _ in 0..TRIES {
            let epoch = self.newest_collection().await?;
            let now = now(Utc::now(), epoch.map(|collection| collection.vault_time));
            let standing = self.standing(machine, seq).await?;
            let refused = |source| VaultError::Refused { object: name::point(machine, seq), source };
            let Some(action) = standing.check(action, now).map_err(refused)? else { return Ok(standing) };
            let event = next_event(machine, seq, &standing, epoch, action, actor);
            if self.create_event(&event).await? == Created::Now {
                return self.standing(machine, seq).await;
            }
        }
        Err(VaultError::Contended { machine })
    }

    /// Purges a point that stands like this. Answers whether it is purged: what was decided about it since counts.
    pub(crate) async fn purge_point(
        &self,
        machine: Uuid,
        seq: u64,
        standing: &Standing,
    ) -> Result<bool, VaultError> {
        let epoch = self.newest_collection().await?;
        let event = next_event(machine, seq, standing, epoch, Action::Purge, "garbage collection");
        if self.create_event(&event).await? == Created::Before {
            info!(%machine, seq, "not purged: something else was decided about it meanwhile");
        }
        Ok(self.standing(machine, seq).await?.state == PointState::Purged)
    }

    /// Of what the caller knows to be a point: an abort has taken the place of one that was lost.
    async fn presence(&self, machine: Uuid, seq: u64) -> Result<Presence, VaultError> {
        match self.outcome(machine, seq).await {
            Ok(Some(Outcome::Point(_))) => Ok(Presence::Stored),
            Ok(None | Some(Outcome::Aborted { .. })) => Ok(Presence::Lost),
            // A damaged point can be deleted: that is how it is quarantined.
            Err(error) if error.is_damage() => Ok(Presence::Stored),
            Err(error) => Err(error),
        }
    }

    async fn create_event(&self, event: &Event) -> Result<Created, VaultError> {
        let Event { machine, seq, number, action, actor, .. } = event;
        let object = name::event(*machine, *seq, *number);
        let created = self.create_record(&object, Kind::Event, &event.sign(&self.inner.signer)).await?;
        if created == Created::Now {
            info!(%machine, seq, ?action, actor, "decided about a point");
        }
        Ok(created)
    }

    /// Where a point stands.
    pub async fn standing(&self, machine: Uuid, seq: u64) -> Result<Standing, VaultError> {
        let names = self.point_names(machine).await?;
        self.standing_by(machine, seq, names.events.get(&seq)).await
    }

    /// All that was decided about a point, in its order.
    pub async fn events(&self, machine: Uuid, seq: u64) -> Result<Vec<Event>, VaultError> {
        let names = self.point_names(machine).await?;
        self.events_by(machine, seq, names.events.get(&seq)).await
    }

    /// Where a point stands, with the numbers of its events as they were listed.
    pub(crate) async fn standing_by(
        &self,
        machine: Uuid,
        seq: u64,
        numbers: Option<&Vec<u32>>,
    ) -> Result<Standing, VaultError> {
        Ok(Standing::after(&self.events_by(machine, seq, numbers).await?))
    }

    async fn events_by(
        &self,
        machine: Uuid,
        seq: u64,
        numbers: Option<&Vec<u32>>,
    ) -> Result<Vec<Event>, VaultError> {
        let mut events = Vec::new();
        for (expected, number) in (1..).zip(numbers.into_iter().flatten()) {
            if *number != expected {
                return Err(VaultError::Missing { object: name::event(machine, seq, expected) });
            }
            events.push(self.read_event(machine, seq, *number).await?);
        }
        Ok(events)
    }

    pub(crate) async fn point_names(&self, machine: Uuid) -> Result<PointNames, VaultError> {
        let mut names = PointNames::default();
        for meta in object::list_meta(self.store(), &format!("points/{machine}")).await? {
            if let Some(seq) = name::seq_of(&meta.location) {
                names.seqs.insert(seq, meta.last_modified);
            } else if let Some((seq, number)) = name::event_of(&meta.location) {
                names.events.entry(seq).or_default().push(number);
                names.stored_at.insert((seq, number), meta.last_modified);
            }
        }
        names.events.values_mut().for_each(|numbers| numbers.sort_unstable());
        Ok(names)
    }

    async fn read_event(&self, machine: Uuid, seq: u64, number: u32) -> Result<Event, VaultError> {
        let object = name::event(machine, seq, number);
        let body = self.read_record(&object, Kind::Event).await?;
        let event = Event::verify(&body, &self.inner.signer.public_key())
            .map_err(|source| VaultError::damaged(&object, source))?;
        if (event.machine, event.seq, event.number) == (machine, seq, number) {
            Ok(event)
        } else {
            Err(VaultError::mismatch(&object, "it is another point's"))
        }
    }
}

/// What is decided about a point that stands like this: if something else was, its number is taken.
fn next_event(
    machine: Uuid,
    seq: u64,
    standing: &Standing,
    epoch: Option<Collection>,
    action: Action,
    actor: &str,
) -> Event {
    Event {
        machine,
        seq,
        number: standing.decisions + 1,
        at: Utc::now().timestamp_micros(),
        epoch: epoch.map_or(0, |collection| collection.epoch),
        actor: actor.to_owned(),
        action,
    }
}
