//! Deciding about points that exist. Each decision is one object, so of two at the same time one is the first.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tracing::info;
use uuid::Uuid;

use holdfast_vault_format::container::Kind;
use holdfast_vault_format::event::{Action, Event};

use crate::object::{self, Created};
use crate::standing::{Now, Standing};
use crate::{Outcome, Vault, VaultError, name};

/// How often somebody else may be faster.
const TRIES: u32 = 32;

/// What `points/<machine>/` holds.
#[derive(Debug, Default)]
pub(crate) struct PointNames {
    /// Ascending: points and aborts.
    pub(crate) seqs: Vec<u64>,
    /// The numbers of the events of each, ascending.
    pub(crate) events: BTreeMap<u64, Vec<u32>>,
}

impl Vault {
    /// Decides something about a point and answers where it stands then. What is so already is no error.
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
        match self.outcome(machine, seq).await {
            Ok(Some(Outcome::Point(_))) => {}
            Ok(_) => return Err(VaultError::Missing { object: name::point(machine, seq) }),
            // A damaged point can be deleted: that is how it is quarantined.
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        for _ in 0..TRIES {
            let epoch = self.newest_collection().await?;
            let now = now(Utc::now(), epoch.map(|collection| collection.vault_time));
            let standing = self.standing(machine, seq).await?;
            let refused = |source| VaultError::Refused { object: name::point(machine, seq), source };
            let Some(action) = standing.check(action, now).map_err(refused)? else { return Ok(standing) };
            let event = Event {
                machine,
                seq,
                number: standing.decisions + 1,
                at: Utc::now().timestamp_micros(),
                epoch: epoch.map_or(0, |collection| collection.epoch),
                actor: actor.to_owned(),
                action,
            };
            let object = name::event(machine, seq, event.number);
            let body = event.sign(&self.inner.signer);
            if self.create_record(&object, Kind::Event, &body).await? == Created::Now {
                info!(%machine, seq, ?action, actor, "decided about a point");
                return self.standing(machine, seq).await;
            }
        }
        Err(VaultError::Contended { machine })
    }

    /// Where a point stands.
    pub async fn standing(&self, machine: Uuid, seq: u64) -> Result<Standing, VaultError> {
        let names = self.point_names(machine).await?;
        self.standing_by(machine, seq, names.events.get(&seq)).await
    }

    /// The same, with the numbers of its events as they were listed.
    pub(crate) async fn standing_by(
        &self,
        machine: Uuid,
        seq: u64,
        numbers: Option<&Vec<u32>>,
    ) -> Result<Standing, VaultError> {
        let mut standing = Standing::default();
        for (expected, number) in (1..).zip(numbers.into_iter().flatten()) {
            if *number != expected {
                return Err(VaultError::Missing { object: name::event(machine, seq, expected) });
            }
            standing.apply(&self.read_event(machine, seq, *number).await?);
        }
        Ok(standing)
    }

    pub(crate) async fn point_names(&self, machine: Uuid) -> Result<PointNames, VaultError> {
        let mut names = PointNames::default();
        for path in object::list(self.store(), &format!("points/{machine}")).await? {
            if let Some(seq) = name::seq_of(&path) {
                names.seqs.push(seq);
            } else if let Some((seq, number)) = name::event_of(&path) {
                names.events.entry(seq).or_default().push(number);
            }
        }
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

/// A clock that is wrong must neither end a lock early nor keep a cooling-off period open.
pub(crate) fn now(clock: DateTime<Utc>, vault_time: Option<i64>) -> Now {
    let Some(vault) = vault_time.and_then(DateTime::from_timestamp_micros) else {
        return Now { earliest: clock, latest: clock };
    };
    Now { earliest: clock.min(vault + crate::collect::MAX_STEP), latest: clock.max(vault) }
}
