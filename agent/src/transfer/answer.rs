//! What the gateway says when a transfer is opened, checked before anything relies on it.

use holdfast_proto::v1::{DiskBase, OpenTransferResponse};
use holdfast_vault_format::{BLOCK_SIZE, MAX_CELL_BYTES};

/// An answer that can be worked with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) transfer_id: String,
    /// In the order of the disks; each with a key of 32 bytes.
    pub(super) bases: Vec<DiskBase>,
    pub(super) cell_blocks: u64,
}

impl Answer {
    /// # Errors
    /// What is wrong with it, for these disks.
    pub(super) fn check<'a>(
        answer: OpenTransferResponse,
        disks: impl Iterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let mut bases = Vec::new();
        for disk in disks {
            let base = answer.disks.iter().find(|base| base.name == disk);
            let base = base
                .filter(|base| base.block_hash_key.len() == 32)
                .ok_or_else(|| format!("the answer does not say what is known of disk {disk}"))?;
            bases.push(base.clone());
        }
        let cell_bytes = answer.max_cell_bytes as usize;
        if cell_bytes == 0 || cell_bytes > MAX_CELL_BYTES || !cell_bytes.is_multiple_of(BLOCK_SIZE) {
            return Err("max_cell_bytes is out of range".to_owned());
        }
        Ok(Self { transfer_id: answer.transfer_id, bases, cell_blocks: (cell_bytes / BLOCK_SIZE) as u64 })
    }
}
