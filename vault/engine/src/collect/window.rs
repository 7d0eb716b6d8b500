//! When points that were deleted are purged.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::VaultError;
use crate::event::PointNames;
use crate::settled::Fate;
use crate::standing::{Deletion, PointState, Standing};

use super::CollectionRun;

impl CollectionRun {
    /// Of points that the storage lost and that were given up, what was sent for them is of no more use.
    pub(super) async fn conclude_lost(&self, machine: Uuid, names: &PointNames) -> Result<(), VaultError> {
        for (seq, numbers) in names.events.iter().filter(|(seq, _)| !names.seqs.contains_key(seq)) {
            let standing = self.vault.standing_by(machine, *seq, Some(numbers)).await?;
            if standing.state == PointState::Purged {
                self.vault.conclude(machine, *seq, "the storage lost it, and it was given up").await?;
            }
        }
        Ok(())
    }

    /// Points whose window the vault's time has left behind, and where they stand.
    pub(super) async fn windows_over(
        &self,
        machine: Uuid,
        names: &PointNames,
    ) -> Result<BTreeMap<u64, Standing>, VaultError> {
        let mut over = BTreeMap::new();
        if self.report.clock_leap.is_some() {
            return Ok(over);
        }
        for (seq, numbers) in &names.events {
            if self.vault.fate(machine, *seq, names) == Some(Fate::Purged) {
                continue;
            }
            let standing = self.vault.standing_by(machine, *seq, Some(numbers)).await?;
            if let PointState::SoftDeleted(deletion) = &standing.state
                && standing.lock.is_none_or(|lock| lock.until <= self.vault_time())
                && self.is_over(deletion, names.stored_at.get(&(*seq, deletion.number))).await?
            {
                over.insert(*seq, standing);
            }
        }
        Ok(over)
    }

    /// A window begins when the first collection after the deletion sees it: no clock but the vault's ends it. If the vault's time
    /// stood still then, it begins when the point was deleted: what an operator's word makes up for was before. In no case does it begin
    /// before the decision was stored, which may be long after it was made; but a storage whose clock is ahead is not believed.
    async fn is_over(
        &self,
        deletion: &Deletion,
        stored_at: Option<&DateTime<Utc>>,
    ) -> Result<bool, VaultError> {
        if deletion.epoch >= self.collection.epoch {
            return Ok(false);
        }
        let seen = self.vault.first_time(deletion.epoch + 1..self.collection.epoch).await?;
        let stored_at = stored_at.copied().filter(|stored_at| *stored_at <= self.options.now);
        let decided = deletion.at.max(stored_at.unwrap_or(deletion.at));
        let begin = seen.unwrap_or(self.collection.vault_time).max(decided.timestamp_micros());
        let passed = self.collection.vault_time.saturating_sub(begin);
        Ok(u128::try_from(passed).is_ok_and(|passed| passed >= deletion.window.as_micros()))
    }

    fn vault_time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.collection.vault_time).unwrap_or(DateTime::UNIX_EPOCH)
    }
}
