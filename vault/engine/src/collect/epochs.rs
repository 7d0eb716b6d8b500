//! The objects of collections.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use holdfast_vault_format::DecodeError;
use holdfast_vault_format::collection::{Collection, Condemned, CondemnedSegment};
use holdfast_vault_format::container::Kind;
use tracing::warn;

use crate::object::{self, Created};
use crate::{Vault, VaultError, clock, name};

use super::CollectOptions;

/// How often another collector may be faster.
const TRIES: u32 = 32;

/// No vault gets so far: what has a larger number is not of a collection.
const LAST: u64 = 999_999_999_999;

/// What `gc/` holds: the epochs of each kind of object.
#[derive(Debug, Default)]
struct Epochs {
    begun: BTreeSet<u64>,
    condemned: BTreeSet<u64>,
    collected: BTreeSet<u64>,
}

impl Vault {
    /// The newest collection that began; one whose object is damaged counts, its time is that of the one before.
    pub(crate) async fn newest_collection(&self) -> Result<Option<Collection>, VaultError> {
        let epochs = self.epochs().await?;
        let Some(newest) = epochs.begun.last().copied() else { return Ok(None) };
        for epoch in epochs.begun.into_iter().rev() {
            match self.read_collection(epoch).await {
                Ok(collection) => return Ok(Some(Collection { epoch: newest, ..collection })),
                Err(error) if error.is_damage() => tell_damaged(epoch, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Collection { epoch: newest, at: 0, vault_time: 0 }))
    }

    /// The vault's time at the first of these collections, or at the next one that can be read: a window that begins later only ends
    /// later.
    pub(super) async fn first_time(&self, epochs: Range<u64>) -> Result<Option<i64>, VaultError> {
        let mut listed = None;
        let mut next = Some(epochs.start);
        while let Some(epoch) = next.filter(|epoch| *epoch < epochs.end) {
            match self.read_collection(epoch).await {
                Ok(collection) => return Ok(Some(collection.vault_time)),
                Err(error) if error.is_damage() => tell_damaged(epoch, &error),
                Err(error) => return Err(error),
            }
            // One that is not there may be far from the next.
            let begun: &BTreeSet<u64> = match &mut listed {
                Some(begun) => begun,
                listed => listed.insert(self.epochs().await?.begun),
            };
            next = begun.range(epoch + 1..).next().copied();
        }
        Ok(None)
    }

    /// The largest number under which something was condemned: a backup that begins now knows it and all before it.
    pub(crate) async fn condemned_number(&self) -> Result<u64, VaultError> {
        let epochs = self.epochs().await?;
        Ok(epochs.condemned.last().max(epochs.collected.last()).copied().unwrap_or(0))
    }

    /// Everything that is condemned and may still be there.
    ///
    /// # Errors
    /// If it cannot be told: then nothing that is stored may be used.
    pub(crate) async fn condemned(&self) -> Result<Arc<HashSet<CondemnedSegment>>, VaultError> {
        let numbers = self.unfinished_epochs().await?;
        if let Some(condemned) = self.inner.condemned.get(&numbers) {
            return Ok(condemned);
        }
        let mut all = HashSet::new();
        for epoch in &numbers {
            match self.read_condemned(*epoch).await {
                Ok(condemned) => all.extend(condemned.segments),
                // Finished meanwhile: it is gone, or in a set that is listed, too.
                Err(VaultError::Missing { .. }) if self.is_collected(*epoch).await? => {}
                Err(error) => return Err(error),
            }
        }
        let all = Arc::new(all);
        self.inner.condemned.put(numbers, Arc::clone(&all));
        Ok(all)
    }

    /// What of it can be read. The rest is condemned again.
    pub(super) async fn condemned_readably(&self) -> Result<HashSet<CondemnedSegment>, VaultError> {
        let mut all = HashSet::new();
        for epoch in self.unfinished_epochs().await? {
            match self.read_condemned(epoch).await {
                Ok(condemned) => all.extend(condemned.segments),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// What was condemned and is not known to be gone, oldest first. What cannot be read stays as it is: nothing is deleted
    /// by it, this collection condemns the same again, and no backup takes anything over as long as it is there.
    pub(super) async fn unfinished_collections(&self) -> Result<Vec<Condemned>, VaultError> {
        let epochs = self.epochs().await?;
        for finished in epochs.condemned.intersection(&epochs.collected) {
            // Its collector was killed between two words.
            object::delete(self.store(), &name::condemned(*finished)).await?;
        }
        let mut unfinished = Vec::new();
        for epoch in self.unfinished_epochs().await? {
            match self.read_condemned(epoch).await {
                Ok(condemned) => unfinished.push(condemned),
                // Another collector finished it meanwhile.
                Err(VaultError::Missing { .. }) if self.is_collected(epoch).await? => {}
                Err(error) if error.is_damage() => {
                    warn!(
                        epoch,
                        error = &error as &dyn std::error::Error,
                        "what a collection condemned cannot be read"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        // Once a set is finished its name is free, and a collector that chose the number before takes it: what was read under it then may
        // be what backups do not know that know the number.
        let collected = self.epochs().await?.collected;
        unfinished.retain(|condemned| !collected.contains(&condemned.number));
        Ok(unfinished)
    }

    async fn unfinished_epochs(&self) -> Result<Vec<u64>, VaultError> {
        let epochs = self.epochs().await?;
        Ok(epochs.condemned.difference(&epochs.collected).copied().collect())
    }

    async fn is_collected(&self, epoch: u64) -> Result<bool, VaultError> {
        Ok(self.epochs().await?.collected.contains(&epoch))
    }

    async fn read_collection(&self, epoch: u64) -> Result<Collection, VaultError> {
        let object = name::collection(epoch);
        let body = self.read_record(&object, Kind::Collection).await?;
        let collection = Collection::decode(&body).map_err(|source| VaultError::damaged(&object, source))?;
        of_epoch(&object, collection.epoch, epoch)?;
        Ok(collection)
    }

    async fn read_condemned(&self, epoch: u64) -> Result<Condemned, VaultError> {
        let object = name::condemned(epoch);
        let body = self.read_record(&object, Kind::Condemned).await?;
        let condemned = Condemned::decode(&body).map_err(|source| VaultError::damaged(&object, source))?;
        of_epoch(&object, condemned.number, epoch)?;
        Ok(condemned)
    }

    /// What the next collection would be, and by how much the clock leapt.
    pub(super) async fn next_collection(
        &self,
        options: &CollectOptions,
    ) -> Result<(Collection, Option<Duration>), VaultError> {
        let previous = self.newest_collection().await?;
        let at = options.now.timestamp_micros();
        let (vault_time, leap) =
            clock::advance(previous.map(|previous| previous.vault_time), at, options.clock);
        let epoch = after(previous.map_or(0, |previous| previous.epoch), name::collection)?;
        Ok((Collection { epoch, at, vault_time }, leap))
    }

    /// Begins a collection under an epoch of its own.
    pub(super) async fn create_collection(
        &self,
        options: &CollectOptions,
    ) -> Result<(Collection, Option<Duration>), VaultError> {
        for _ in 0..TRIES {
            let (collection, leap) = self.next_collection(options).await?;
            let object = name::collection(collection.epoch);
            if self.create_record(&object, Kind::Collection, &collection.encode()).await? == Created::Now {
                return Ok((collection, leap));
            }
        }
        Err(VaultError::mismatch("gc", "others collect at the same time"))
    }

    /// Condemns these, if there are any. The number is taken when it is written, not when its collection began: a backup that knows
    /// a number must know everything that was condemned under smaller ones.
    pub(super) async fn create_condemned(
        &self,
        mut segments: Vec<CondemnedSegment>,
    ) -> Result<(), VaultError> {
        if segments.is_empty() {
            return Ok(());
        }
        segments.sort_unstable();
        segments.dedup();
        let mut condemned = Condemned { number: 0, segments };
        for _ in 0..TRIES {
            condemned.number = after(self.condemned_number().await?, name::condemned)?;
            let object = name::condemned(condemned.number);
            if self.create_record(&object, Kind::Condemned, &condemned.encode()).await? == Created::Now {
                return Ok(());
            }
        }
        Err(VaultError::mismatch("gc", "others collect at the same time"))
    }

    /// Says that what was condemned is gone, or condemned under a larger number as well. What it was is of no more use then.
    pub(super) async fn finish_collection(&self, epoch: u64) -> Result<(), VaultError> {
        self.create_record(&name::collected(epoch), Kind::Collected, &epoch.to_le_bytes()).await?;
        object::delete(self.store(), &name::condemned(epoch)).await
    }

    async fn epochs(&self) -> Result<Epochs, VaultError> {
        let mut epochs = Epochs::default();
        for path in object::list(self.store(), "gc").await? {
            let Some(name) = path.filename() else { continue };
            let (epoch, kind) = match name.split_once('.') {
                None => (name, &mut epochs.begun),
                Some((epoch, "set")) => (epoch, &mut epochs.condemned),
                Some((epoch, "done")) => (epoch, &mut epochs.collected),
                Some(_) => continue,
            };
            kind.extend(name::parse_seq(epoch).filter(|number| *number <= LAST));
        }
        Ok(epochs)
    }
}

/// The number after this one.
fn after(number: u64, object: impl FnOnce(u64) -> String) -> Result<u64, VaultError> {
    if number < LAST {
        Ok(number + 1)
    } else {
        Err(VaultError::mismatch(&object(number), "no number comes after it: it is not of a collection"))
    }
}

fn tell_damaged(epoch: u64, error: &VaultError) {
    warn!(epoch, error = error as &dyn std::error::Error, "a collection's object is damaged");
}

fn of_epoch(object: &str, found: u64, wanted: u64) -> Result<(), VaultError> {
    if found == wanted {
        Ok(())
    } else {
        Err(VaultError::damaged(object, DecodeError::OutOfRange { what: "the epoch" }))
    }
}
