//! Tries what everything depends on, because not every server that says so keeps to it.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tracing::{debug, warn};
use uuid::Uuid;

use holdfast_vault_format::event::LockMode;

use crate::object::{self, Created};
use crate::retention::Retention;
use crate::store::{Answered, Bypass, ObjectLock, Storage};
use crate::{NotEnforced, VaultError, name};

/// For so long a version is retained to see whether it can be deleted. Nobody can shorten that.
const RETAINED: TimeDelta = TimeDelta::seconds(60);
/// A server that does not answer in that time is tried again so often.
const TRIES: u32 = 3;
/// Another controller may be at it.
const LEFT_ALONE: Duration = Duration::from_secs(15 * 60);

/// Tries whether a name can be taken once only.
pub(crate) async fn refuse_overwriting(storage: &Storage) -> Result<(), VaultError> {
    let name = name::probe(Uuid::new_v4());
    let probed = async {
        let first = object::create(storage, &name, noise()).await?;
        Ok((first, object::create(storage, &name, noise()).await?))
    };
    let probed = probed.await;
    let deleted = discard(storage, &name).await;
    match probed? {
        (Created::Now, Created::Before) => deleted,
        _ => Err(VaultError::CreatesTwice),
    }
}

/// Deletes a new object; where versions are kept, without leaving one.
async fn discard(storage: &Storage, name: &str) -> Result<(), VaultError> {
    if let Some(lock) = storage.object_lock()
        && let Some(version) = lock.version(name).await?.id
        && lock.delete_version(name, &version).await? == Answered::Done
    {
        return Ok(());
    }
    object::delete(storage.objects(), name).await
}

/// Tries whether a storage that has to enforce locks does: what counts is that a version is still there after it was to be deleted.
/// What that leaves is removed by [`sweep`].
pub(crate) async fn refuse_unenforced(storage: &Storage) -> Result<(), VaultError> {
    let Some(lock) = storage.object_lock() else { return Ok(()) };
    let refused = |reason| Err(VaultError::NotEnforced { reason });
    // To a key that may delete nothing every version seems retained.
    let (name, version) = put(storage, lock).await?;
    match lock.delete_version(&name, &version).await? {
        Answered::Done | Answered::Missing => {}
        Answered::Denied => return refused(NotEnforced::Untried),
        Answered::Unable { said } => return refused(NotEnforced::Unable { said }),
    }
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let mut tries = 0;
        while !is_enforced(storage, lock, mode).await? {
            tries += 1;
            if tries == TRIES {
                return refused(NotEnforced::Slow);
            }
        }
    }
    Ok(())
}

/// `false`: it took so long that it shows nothing.
async fn is_enforced(storage: &Storage, lock: &ObjectLock, mode: LockMode) -> Result<bool, VaultError> {
    let refused = |reason| Err(VaultError::NotEnforced { reason });
    let (name, version) = put(storage, lock).await?;
    let now = Utc::now();
    let retention = Retention::new(mode, now + RETAINED);
    match lock.retain(&name, &version, retention, Bypass::Nothing).await? {
        Answered::Done => {}
        Answered::Unable { said } => return refused(NotEnforced::Unable { said }),
        Answered::Denied | Answered::Missing => return refused(NotEnforced::Denied),
    }
    let told = lock.version(&name).await?.retention;
    let deleted = lock.delete_version(&name, &version).await?;
    let shortened = Retention::new(mode, now + RETAINED / 2);
    let shortens = match mode {
        LockMode::Governance => false,
        LockMode::Compliance => {
            lock.retain(&name, &version, shortened, Bypass::Governance).await? == Answered::Done
        }
    };
    let left = match lock.version(&name).await {
        Err(VaultError::Missing { .. }) => None,
        left => Some(left?),
    };
    if Utc::now() >= shortened.until {
        return Ok(false);
    }
    let is_there = left.as_ref().is_some_and(|left| left.id.as_deref() == Some(version.as_str()));
    if matches!(deleted, Answered::Done | Answered::Missing) || !is_there {
        return refused(NotEnforced::Deletes { mode });
    }
    if !told.is_some_and(|told| told.covers(retention)) {
        return refused(NotEnforced::Untold);
    }
    if shortens || !left.and_then(|left| left.retention).is_some_and(|left| left.covers(retention)) {
        return refused(NotEnforced::Shortens);
    }
    Ok(true)
}

/// Answers the name of a new object and its version.
async fn put(storage: &Storage, lock: &ObjectLock) -> Result<(String, String), VaultError> {
    let name = name::probe(Uuid::new_v4());
    object::create(storage, &name, noise()).await?;
    let Some(version) = lock.version(&name).await?.id else {
        object::delete(storage.objects(), &name).await?;
        return Err(VaultError::NotEnforced { reason: NotEnforced::Unversioned });
    };
    Ok((name, version))
}

fn noise() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 32]>())
}

/// Removes what a storage was tried with some time before `now`, see [`Vault::sweep_probes`](crate::Vault::sweep_probes).
pub(crate) async fn sweep(storage: &Storage, now: DateTime<Utc>) {
    let Some(lock) = storage.object_lock() else { return };
    match sweep_with(storage, lock, now).await {
        Ok(0) => {}
        Ok(count) => debug!(count, "probes are removed"),
        Err(error) => warn!(error = &error as &dyn std::error::Error, "probes are not removed"),
    }
}

async fn sweep_with(storage: &Storage, lock: &ObjectLock, now: DateTime<Utc>) -> Result<usize, VaultError> {
    let mut swept = 0;
    for probe in object::list_meta(storage.objects(), name::PROBES).await? {
        if (now - probe.last_modified).to_std().is_ok_and(|age| age >= LEFT_ALONE)
            && let Some(version) = lock.version(probe.location.as_ref()).await?.id
            && lock.delete_version(probe.location.as_ref(), &version).await? == Answered::Done
        {
            swept += 1;
        }
    }
    Ok(swept)
}
