//! Looking at where a disk's blocks are, without reading them.

use std::collections::BTreeMap;
use std::ops::Range;

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::Place;

use crate::VaultError;
use crate::segment::SegmentId;

use super::{DiskReader, WINDOW};

impl DiskReader {
    /// Checks that the deltas speak of every block from `first` on.
    pub(crate) async fn check_coverage(&self, first: u64) -> Result<(), VaultError> {
        let blocks = blocks_of(self.inner.size_bytes);
        let mut at = first;
        while at < blocks {
            let end = (at + WINDOW).min(blocks);
            self.inner.places(at, end).await?;
            at = end;
        }
        Ok(())
    }

    /// The blocks that lie in cells that are `wanted`, by segment, ascending.
    pub(crate) async fn blocks_in(
        &self,
        wanted: impl Fn(SegmentId, u32) -> bool,
    ) -> Result<BTreeMap<SegmentId, Vec<Range<u64>>>, VaultError> {
        let mut found: BTreeMap<SegmentId, Vec<Range<u64>>> = BTreeMap::new();
        let blocks = blocks_of(self.inner.size_bytes);
        let mut first = 0;
        while first < blocks {
            let end = (first + WINDOW).min(blocks);
            for (block, (delta, place)) in (first..).zip(self.inner.places(first, end).await?) {
                let Place::Cell { segment, cell, .. } = place else { continue };
                let id = SegmentId::named(self.inner.machine, self.inner.named(delta, segment)?);
                if !wanted(id, cell) {
                    continue;
                }
                let ranges = found.entry(id).or_default();
                match ranges.last_mut() {
                    Some(last) if last.end == block => last.end += 1,
                    _ => ranges.push(block..block + 1),
                }
            }
            first = end;
        }
        Ok(found)
    }

    /// Whether any delta names one of these segments.
    pub(crate) fn names(&self, wanted: impl Fn(SegmentId) -> bool) -> bool {
        let machine = self.inner.machine;
        self.inner
            .deltas
            .iter()
            .flat_map(|(_, root)| &root.segments)
            .any(|named| wanted(SegmentId::named(machine, named)))
    }
}
