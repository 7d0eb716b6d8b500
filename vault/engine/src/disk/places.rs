//! Where a disk's blocks are: what each delta says, the newer over the older.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{PageRef, Place, Placed, SegmentRef, decode_extents};

use crate::VaultError;

use super::Inner;

/// By the backup that wrote a delta, the page of it that was read last: windows go upwards, and one page lies in hundreds of them where
/// little of a disk is data, or little of it changed.
pub(super) type LastPages = HashMap<u64, (PageRef, Arc<Vec<Placed>>)>;

/// The blocks `first..end`, which one delta placed one after the other. By runs and not by blocks: most of a large disk is one hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) delta: usize,
    /// Of block `first`.
    pub(super) place: Place,
}

impl Inner {
    /// Where the blocks `first..end` are, in their order, each with the delta that says so: the newest one that speaks of it. A block
    /// that none speaks of is damage, never zero.
    pub(super) async fn places(&self, first: u64, end: u64) -> Result<Vec<Run>, VaultError> {
        let mut runs = Vec::new();
        for (delta, (seq, root)) in self.deltas.iter().enumerate() {
            let mut newer = Vec::new();
            let start = root.extent_pages.partition_point(|page| page.end_block <= first);
            for page in root.extent_pages[start..].iter().take_while(|page| page.first_block < end) {
                let extents = self.page(*seq, page).await?;
                let start = extents.partition_point(|placed| end_of(placed) <= first);
                let inside = extents[start..].iter().take_while(|placed| placed.extent.first_block < end);
                newer.extend(inside.map(|placed| Run::new(delta, placed).from(first).until(end)));
            }
            runs = lay(runs, newer);
        }
        // They are in order: behind a gap none begins where the blocks before it end.
        let at = runs.iter().fold(first, |at, run| if run.first == at { run.end } else { at });
        if at == end {
            Ok(runs)
        } else {
            Err(VaultError::mismatch("the stack of deltas", format!("no delta covers block {at}")))
        }
    }

    /// A page of the delta of a backup.
    async fn page(&self, seq: u64, page: &PageRef) -> Result<Arc<Vec<Placed>>, VaultError> {
        let last = self.last_pages().get(&seq).filter(|(last, _)| last == page).cloned();
        if let Some((_, extents)) = last {
            return Ok(extents);
        }
        let bytes = self.vault.delta_page(self.machine, seq, page).await?;
        let extents = decode_extents(&bytes, page)
            .map_err(|source| VaultError::damaged(&format!("a page of the delta of backup {seq}"), source))?;
        let extents = Arc::new(extents);
        self.last_pages().insert(seq, (*page, Arc::clone(&extents)));
        Ok(extents)
    }

    fn last_pages(&self) -> MutexGuard<'_, LastPages> {
        self.last_pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment by its number in a delta.
    pub(super) fn named(&self, delta: usize, segment: u32) -> Result<&SegmentRef, VaultError> {
        self.deltas[delta]
            .1
            .segments
            .get(segment as usize)
            .ok_or_else(|| VaultError::mismatch("a delta", format!("it names no segment {segment}")))
    }
}

impl Run {
    fn new(delta: usize, placed: &Placed) -> Self {
        Self { first: placed.extent.first_block, end: end_of(placed), delta, place: placed.place }
    }

    pub(super) fn extent(&self) -> Extent {
        Extent { first_block: self.first, block_count: self.end - self.first }
    }

    /// What of it is not before this block.
    fn from(self, block: u64) -> Self {
        let first = block.clamp(self.first, self.end);
        Self { first, place: self.place.skip(first - self.first), ..self }
    }

    /// What of it is before this block.
    fn until(self, block: u64) -> Self {
        Self { end: block.clamp(self.first, self.end), ..self }
    }

    fn some(self) -> Option<Self> {
        (self.first < self.end).then_some(self)
    }
}

fn end_of(placed: &Placed) -> u64 {
    placed.extent.first_block + placed.extent.block_count
}

/// What is newer covers what is older. Both are in order, and neither overlaps itself.
fn lay(older: Vec<Run>, newer: Vec<Run>) -> Vec<Run> {
    if newer.is_empty() {
        return older;
    }
    let mut both = Vec::with_capacity(older.len() + newer.len());
    let mut newer = newer.into_iter().peekable();
    let mut covered = 0;
    for run in older {
        let mut rest = run.from(covered);
        while let Some(over) = newer.next_if(|over| over.first < rest.end) {
            both.extend(rest.until(over.first).some());
            both.push(over);
            covered = over.end;
            rest = rest.from(covered);
        }
        both.extend(rest.some());
    }
    both.extend(newer);
    both
}

#[cfg(test)]
mod tests;
