//! Reading deltas.

use uuid::Uuid;

use holdfast_vault_format::DecodeError;
use holdfast_vault_format::delta::{DeltaRoot, PageRef};
use holdfast_vault_format::record::DeltaRef;

use crate::segment_id::{AnyGeneration, SegmentId};
use crate::{Vault, VaultError};

/// Largest encoded root: a delta over 2,000,000 segments.
const MAX_ROOT: usize = 128 << 20;

/// The segments that a delta of a machine lies in and those that it names: what has to stay for it.
pub(crate) fn segments_needed(
    machine: Uuid,
    delta: &DeltaRef,
    root: &DeltaRoot,
) -> impl Iterator<Item = AnyGeneration> {
    let parts = delta.parts.iter().map(|part| part.segment);
    let pages = root.extent_pages.iter().chain(&root.hash_pages).map(|page| page.place.segment);
    let seq = delta.seq;
    let own = parts.chain(pages).map(move |number| (machine, seq, number));
    own.chain(root.segments.iter().map(move |named| SegmentId::named(machine, named).any_generation()))
}

impl Vault {
    /// Reads a delta's root and checks it against the hash that the point commits to.
    pub(crate) async fn delta_root(&self, machine: Uuid, delta: &DeltaRef) -> Result<DeltaRoot, VaultError> {
        let object = format!("the delta of backup {} of machine {machine}", delta.seq);
        let mut encoded = Vec::new();
        for part in &delta.parts {
            let id = SegmentId { machine, seq: delta.seq, number: part.segment, generation: 0 };
            encoded.extend_from_slice(&self.meta_cell(id, part.cell, None).await?);
            if encoded.len() > MAX_ROOT {
                return Err(VaultError::mismatch(&object, "its root is too large"));
            }
        }
        if *blake3::hash(&encoded).as_bytes() != delta.hash {
            return Err(VaultError::damaged(&object, DecodeError::Hash { what: "the delta" }));
        }
        DeltaRoot::decode(&encoded).map_err(|source| VaultError::damaged(&object, source))
    }

    /// Reads one page of a delta.
    pub(crate) async fn delta_page(
        &self,
        machine: Uuid,
        seq: u64,
        page: &PageRef,
    ) -> Result<Vec<u8>, VaultError> {
        let id = SegmentId { machine, seq, number: page.place.segment, generation: 0 };
        self.meta_cell(id, page.place.cell, Some(page.hash)).await
    }
}
