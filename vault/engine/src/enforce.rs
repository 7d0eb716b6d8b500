//! Locks carried out by the storage: it retains what a locked point needs, so that nobody can delete that before the lock ends, whatever
//! credentials they have.
//!
//! What is retained long enough is left as it is, so an enforcement that was interrupted is gone on with, and the server lets nobody
//! retain anything for less than before. Several at once may still undo one thing: where the key may make compliance out of governance, a
//! governance retention that another sets in between for longer is replaced by the shorter compliance one.

mod needs;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use holdfast_vault_format::event::LockMode;

use crate::retention::Retention;
use crate::segment_id::SegmentId;
use crate::store::{Answered, Bypass, ObjectLock};
use crate::{NotEnforced, Outcome, Point, Vault, VaultError, clock, name, object};

use needs::Needs;

/// How often a collection may replace segments meanwhile.
const TRIES: u32 = 8;
/// Requests under way.
const IN_FLIGHT: usize = 16;

/// How a lock is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// What the lock calls for.
    pub due: Retention,
    /// What of that holds for everything that the point needs. Less where something is under governance that this
    /// key may not bypass.
    pub retained: Retention,
}

impl Vault {
    /// Whether its storage is asked to enforce locks, and was found to do so.
    #[must_use]
    pub fn enforces_locks(&self) -> bool {
        self.storage().object_lock().is_some()
    }

    /// What the storage has to enforce of a point's lock now, by this clock.
    async fn retention_due(
        &self,
        machine: Uuid,
        seq: u64,
        clock: DateTime<Utc>,
    ) -> Result<Option<Retention>, VaultError> {
        let epoch = self.newest_collection().await?;
        let now = clock::now(clock, epoch.map(|collection| collection.vault_time));
        Ok(self.standing(machine, seq).await?.retention(now))
    }

    /// Has the storage retain everything that a locked point needs. `None` if nothing is to be enforced now.
    ///
    /// # Errors
    /// If something of it is not retained, or cannot be read.
    pub async fn enforce_lock(
        &self,
        machine: Uuid,
        seq: u64,
        clock: DateTime<Utc>,
    ) -> Result<Option<Enforced>, VaultError> {
        let Some(lock) = self.storage().object_lock() else { return Ok(None) };
        let Some(due) = self.retention_due(machine, seq, clock).await? else { return Ok(None) };
        let Some(Outcome::Point(point)) = self.look(machine, seq).await? else {
            return Err(VaultError::Missing { object: name::point(machine, seq) });
        };
        let mut tries = 0;
        loop {
            let needs = self.needs(&point).await?;
            let names = self.names_of(&needs).await?;
            match retain_all(lock, names, due).await {
                // A collection has replaced it since it was listed.
                Err(VaultError::Missing { .. }) if tries < TRIES => tries += 1,
                retained => return Ok(Some(Enforced { due, retained: retained? })),
            }
        }
    }

    async fn needs(&self, point: &Point) -> Result<Needs, VaultError> {
        let Point { machine, seq, .. } = *point;
        let keys = object::list(self.store(), "keys").await?;
        let events = self.standing(machine, seq).await?.decisions;
        let mut needs = Needs::new(machine, seq, events, keys.iter().map(ToString::to_string));
        for delta in point.disks.iter().flat_map(|disk| &disk.stack) {
            needs.add_delta(machine, delta, &self.delta_root(machine, delta).await?);
        }
        Ok(needs)
    }

    async fn names_of(&self, needs: &Needs) -> Result<BTreeSet<String>, VaultError> {
        let mut there = Vec::new();
        for (machine, seq) in needs.backups() {
            for path in object::list(self.store(), &format!("seg/{machine}/{seq:020}")).await? {
                let id = |(number, generation)| SegmentId { machine, seq, number, generation };
                there.extend(name::segment_of(&path).map(id));
            }
        }
        let missing = |segment: SegmentId| VaultError::Missing { object: segment.name() };
        needs.names(&there).map_err(missing)
    }
}

/// Answers what of what is due holds for all of them.
async fn retain_all(
    lock: &ObjectLock,
    names: BTreeSet<String>,
    due: Retention,
) -> Result<Retention, VaultError> {
    let bypass = GovernanceBypass::default();
    let retain = |name: String| {
        let bypass = &bypass;
        async move { retain(lock, &name, due, bypass).await }
    };
    futures::stream::iter(names)
        .map(retain)
        .buffer_unordered(IN_FLIGHT)
        .try_fold(due, |all, retention| std::future::ready(Ok(all.and(retention))))
        .await
}

/// Whether the key may make a compliance retention out of a governance one: whoever was denied once is not let through at the next
/// object.
#[derive(Default)]
struct GovernanceBypass {
    is_denied: AtomicBool,
}

/// Has an object's current version retained, and answers how it is then.
async fn retain(
    lock: &ObjectLock,
    name: &str,
    due: Retention,
    bypass: &GovernanceBypass,
) -> Result<Retention, VaultError> {
    match retain_version(lock, name, due, bypass).await {
        // Somebody else may have retained it for longer since it was looked at.
        Err(VaultError::NotEnforced { reason: NotEnforced::Denied }) => {
            let there = lock.version(name).await?.retention.filter(|there| there.covers(due));
            there.ok_or(VaultError::NotEnforced { reason: NotEnforced::Denied })
        }
        retained => retained,
    }
}

async fn retain_version(
    lock: &ObjectLock,
    name: &str,
    mut due: Retention,
    bypass: &GovernanceBypass,
) -> Result<Retention, VaultError> {
    let version = lock.version(name).await?;
    let id = version.id.ok_or(VaultError::NotEnforced { reason: NotEnforced::Unversioned })?;
    let there = version.retention.filter(|there| there.until > Utc::now());
    if let Some(governed) = there.filter(|there| there.mode == LockMode::Governance)
        && due.mode == LockMode::Compliance
    {
        if !bypass.is_denied.load(Ordering::Relaxed) {
            let raised = Retention { until: due.until.max(governed.until), ..due };
            match lock.retain(name, &id, raised, Bypass::Governance).await? {
                Answered::Denied => bypass.is_denied.store(true, Ordering::Relaxed),
                answered => return done(name, answered, raised),
            }
        }
        // Governance, but for as long.
        due.mode = LockMode::Governance;
    }
    let Some(retention) = due.to_set(there) else { return Ok(there.unwrap_or(due)) };
    done(name, lock.retain(name, &id, retention, Bypass::Nothing).await?, retention)
}

fn done(name: &str, answered: Answered, retention: Retention) -> Result<Retention, VaultError> {
    match answered {
        Answered::Done => Ok(retention),
        Answered::Missing => Err(VaultError::Missing { object: name.to_owned() }),
        Answered::Denied => Err(VaultError::NotEnforced { reason: NotEnforced::Denied }),
        Answered::Unable { said } => Err(VaultError::NotEnforced { reason: NotEnforced::Unable { said } }),
    }
}
