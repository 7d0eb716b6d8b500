//! Learning what is stored already.

use tracing::debug;

use crate::segment_id::SegmentId;
use crate::writer::data_hashes;
use crate::{SampleStats, Vault, VaultError, name, object};

impl Vault {
    /// Learns from the directories of all segments that are there, newest last: for a gateway that starts. Damage is passed over.
    /// `progress` is told the machines that are done. Does nothing if the vault does not deduplicate.
    ///
    /// # Errors
    /// If the storage cannot be listed.
    pub async fn learn_samples(
        &self,
        mut progress: impl FnMut(usize) + Send,
    ) -> Result<SampleStats, VaultError> {
        let Some(samples) = &self.inner.samples else { return Ok(SampleStats::default()) };
        // The directories that others are about to use stay in memory.
        let vault = self.renewed(None);
        for (done, machine) in vault.machines().await?.into_iter().enumerate() {
            for path in object::list(vault.store(), &format!("seg/{machine}")).await? {
                let (Some(seq), Some((number, 0))) = (name::seq_folder_of(&path), name::segment_of(&path))
                else {
                    continue;
                };
                let id = SegmentId { machine, seq, number, generation: 0 };
                match vault.segment(id).await {
                    Ok(segment) => samples.learn(machine, seq, number, data_hashes(&segment.directory)),
                    Err(error) => debug!(%path, error = &error as &dyn std::error::Error, "not learnt from"),
                }
            }
            progress(done + 1);
        }
        Ok(samples.stats())
    }
}
