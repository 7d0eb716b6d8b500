//! Looking at where a disk's blocks are, without reading them.

use std::ops::Range;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::Place;
use holdfast_vault_format::kept::Blocks;

use crate::VaultError;
use crate::segment_id::SegmentId;

use super::places::Run;
use super::{DiskReader, Inner, WINDOW};

/// Consecutive blocks of a disk and the cell that holds them, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) segment: SegmentId,
    pub(crate) cell: u32,
    pub(crate) blocks: Blocks,
    pub(crate) disk_blocks: Range<u64>,
}

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

    /// Which blocks of which cells hold the disk, a window at a time, in its order: a cell comes as often as the disk comes
    /// back to it.
    pub(crate) fn parts(self) -> impl Stream<Item = Result<Vec<Part>, VaultError>> + Send + 'static {
        let blocks = blocks_of(self.inner.size_bytes);
        let starts = (0..blocks).step_by(usize::try_from(WINDOW).unwrap_or(usize::MAX));
        futures::stream::iter(starts).then(move |first| {
            let inner = Arc::clone(&self.inner);
            async move { inner.parts(first, (first + WINDOW).min(blocks)).await }
        })
    }

    /// Whether any delta names one of these segments, or has its pages in one.
    pub(crate) fn names(&self, wanted: impl Fn(SegmentId) -> bool) -> bool {
        let machine = self.inner.machine;
        self.inner
            .deltas
            .iter()
            .flat_map(|(_, root)| &root.segments)
            .map(|named| SegmentId::named(machine, named))
            .chain(self.inner.deltas.iter().flat_map(|(seq, root)| {
                let page = |number| SegmentId { machine, seq: *seq, number, generation: 0 };
                root.extent_pages.iter().map(move |of| page(of.place.segment))
            }))
            .any(wanted)
    }
}

impl Inner {
    async fn parts(&self, first: u64, end: u64) -> Result<Vec<Part>, VaultError> {
        let mut parts: Vec<Part> = Vec::new();
        let mut last = None;
        for Run { first, end, delta, place } in self.places(first, end).await? {
            let Place::Cell { segment, cell, cell_block } = place else {
                last = None;
                continue;
            };
            let blocks = Blocks::run(cell_block, end - first);
            match parts.last_mut() {
                Some(part) if last == Some((delta, segment, cell)) => {
                    part.blocks = part.blocks.with(blocks);
                    part.disk_blocks.end = end;
                }
                _ => {
                    let segment = SegmentId::named(self.machine, self.named(delta, segment)?);
                    parts.push(Part { segment, cell, blocks, disk_blocks: first..end });
                }
            }
            last = Some((delta, segment, cell));
        }
        Ok(parts)
    }
}
