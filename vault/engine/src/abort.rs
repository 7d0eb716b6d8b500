use uuid::Uuid;

use holdfast_vault_format::container::Kind;
use holdfast_vault_format::record::Abort;

use crate::{OpenBackup, Outcome, Vault, VaultError};

impl Vault {
    /// Backups of a machine without an outcome. One whose `open` object is damaged has nil ids: it can only be
    /// concluded.
    pub async fn unconcluded(&self, machine: Uuid) -> Result<Vec<OpenBackup>, VaultError> {
        let decided = self.point_seqs(machine).await?;
        let mut open = Vec::new();
        for seq in self.open_seqs(machine).await? {
            if decided.binary_search(&seq).is_ok() {
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
        Ok(open)
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
