//! What became of backups, and deciding it of those that have no outcome.

use std::collections::BTreeMap;

use uuid::Uuid;

use holdfast_vault_format::container::Kind;
use holdfast_vault_format::record::Abort;

use crate::became::Became;
use crate::event::PointNames;
use crate::{OpenBackup, Outcome, Vault, VaultError};

/// What has become of a machine's backups.
#[derive(Debug)]
pub struct Backups {
    /// Those without an outcome. One whose `open` object is damaged has nil ids: it can only be concluded.
    pub unconcluded: Vec<OpenBackup>,
    /// How much was decided about each of the others, points and aborts, by its sequence number; and about points that the storage lost.
    pub decisions: BTreeMap<u64, u32>,
    names: PointNames,
}

impl Vault {
    /// Backups of a machine without an outcome.
    pub async fn unconcluded(&self, machine: Uuid) -> Result<Vec<OpenBackup>, VaultError> {
        Ok(self.backups(machine).await?.unconcluded)
    }

    /// Their sequence numbers, ascending.
    pub(crate) async fn undecided(&self, machine: Uuid) -> Result<Vec<u64>, VaultError> {
        let PointNames { seqs, .. } = self.point_names(machine).await?;
        let opens = self.open_seqs(machine).await?;
        Ok(opens.into_iter().filter(|seq| !seqs.contains_key(seq)).collect())
    }

    /// All backups of a machine.
    pub async fn backups(&self, machine: Uuid) -> Result<Backups, VaultError> {
        let names = self.point_names(machine).await?;
        let last = |seq| names.events.get(&seq).and_then(|numbers| numbers.last().copied()).unwrap_or(0);
        let decisions = names.known().into_iter().map(|seq| (seq, last(seq))).collect();
        let mut open = Vec::new();
        for seq in self.open_seqs(machine).await? {
            if names.seqs.contains_key(&seq) {
                continue;
            }
            open.push(match self.read_open(machine, seq).await {
                Ok(record) => OpenBackup {
                    machine,
                    seq,
                    step_id: record.step,
                    attempt: record.attempt,
                    snapshot_id: record.snapshot,
                },
                Err(error) if error.is_damage() => {
                    OpenBackup { machine, seq, step_id: Uuid::nil(), attempt: 0, snapshot_id: Uuid::nil() }
                }
                Err(error) => return Err(error),
            });
        }
        Ok(Backups { unconcluded: open, decisions, names })
    }

    /// Whether a backup has a point that is not purged. What never changes is remembered, until an older copy of the vault is put in
    /// its place.
    ///
    /// # Errors
    /// Damage if the storage lost what became of it.
    pub async fn has_point(&self, machine: Uuid, seq: u64, backups: &Backups) -> Result<bool, VaultError> {
        Ok(matches!(self.became(machine, seq, &backups.names).await?, Became::Point(..)))
    }

    /// Decides that a backup has no point, unless it has one already: then that is the answer. Only after this is an attempt
    /// dead, because its gateway, however late it wakes up, cannot commit any more.
    pub async fn conclude(&self, machine: Uuid, seq: u64, reason: &str) -> Result<Outcome, VaultError> {
        if let Some(outcome) = self.outcome(machine, seq).await? {
            return Ok(outcome);
        }
        let abort = Abort { machine, seq, reason: reason.to_owned() };
        self.decide(machine, seq, Kind::Abort, &abort.encode()).await
    }
}
