//! Laying deltas over each other, in block order, without holding more than a page of each.

use std::vec::IntoIter;

use futures::TryStreamExt as _;
use futures::stream::BoxStream;

use crate::VaultError;

use super::entry::Entry;

/// Entries in block order, without overlap, some at a time.
pub(super) type Batches<T> = BoxStream<'static, Result<Vec<T>, VaultError>>;

/// What several layers say, the newest winning.
pub(super) struct Sweep<T> {
    /// Newest first.
    sources: Vec<Source<T>>,
}

struct Source<T> {
    batches: Batches<T>,
    batch: IntoIter<T>,
    /// The next entry, without what was answered already. `None` before the first one and after the last.
    head: Option<T>,
}

impl<T: Entry> Sweep<T> {
    /// `sources`: newest first.
    pub(super) fn new(sources: Vec<Batches<T>>) -> Self {
        let source = |batches| Source { batches, batch: Vec::new().into_iter(), head: None };
        Self { sources: sources.into_iter().map(source).collect() }
    }

    /// The next entry, and the number of the source that it is of. All together are in block order, without overlap.
    pub(super) async fn next(&mut self) -> Result<Option<(usize, T)>, VaultError> {
        for source in &mut self.sources {
            source.fill().await?;
        }
        let Some((number, end)) = self.pick() else { return Ok(None) };
        let Some(mut entry) = self.sources[number].head.take() else { return Ok(None) };
        if let Some(end) = end.filter(|end| *end < entry.end()) {
            self.sources[number].head = Some(entry.split(end));
        }
        for older in &mut self.sources[number + 1..] {
            older.drop_until(entry.end()).await?;
        }
        Ok(Some((number, entry)))
    }

    /// The source of the next entry, and where a newer one cuts it off.
    fn pick(&self) -> Option<(usize, Option<u64>)> {
        let heads = || self.sources.iter().map(|source| source.head.as_ref().map(Entry::first));
        let first = heads().flatten().min()?;
        let number = heads().position(|head| head == Some(first))?;
        Some((number, heads().take(number).flatten().min()))
    }
}

impl<T: Entry> Source<T> {
    async fn fill(&mut self) -> Result<(), VaultError> {
        while self.head.is_none() {
            self.head = self.batch.next();
            if self.head.is_none() {
                match self.batches.try_next().await? {
                    Some(batch) => self.batch = batch.into_iter(),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Forgets what lies before block `end`.
    async fn drop_until(&mut self, end: u64) -> Result<(), VaultError> {
        loop {
            self.fill().await?;
            match &mut self.head {
                Some(head) if head.end() <= end => self.head = None,
                Some(head) if head.first() < end => {
                    let rest = head.split(end);
                    self.head = Some(rest);
                }
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use holdfast_vault_format::Extent;
    use holdfast_vault_format::delta::{HashRun, Place, Placed};
    use proptest::prelude::*;

    use super::*;

    /// Gaps, lengths and whether they are zeros.
    type Shape = Vec<(u64, u64, bool)>;

    fn extents(shape: &Shape) -> Vec<(Extent, bool)> {
        let mut at = 0;
        let extent = |&(gap, block_count, zero): &(u64, u64, bool)| {
            let extent = Extent { first_block: at + gap, block_count };
            at = extent.first_block + block_count;
            (extent, zero)
        };
        shape.iter().map(extent).collect()
    }

    fn batches<T: Entry>(entries: Vec<T>) -> Batches<T> {
        let mut batches = vec![Vec::new()];
        for (number, entry) in entries.into_iter().enumerate() {
            if number % 3 == 0 {
                batches.push(Vec::new());
            }
            batches.last_mut().unwrap().push(entry);
        }
        futures::stream::iter(batches.into_iter().map(Ok)).boxed()
    }

    fn all<T: Entry>(mut sweep: Sweep<T>) -> Vec<(usize, T)> {
        let mut seen = Vec::new();
        while let Some(next) = sweep.next().now_or_never().unwrap().unwrap() {
            seen.push(next);
        }
        seen
    }

    proptest! {
        /// Against one value per block.
        #[test]
        fn the_newest_wins(
            shapes in proptest::collection::vec(
                proptest::collection::vec((0_u64..9, 1_u64..12, any::<bool>()), 0..12), 0..6),
        ) {
            let mut model = vec![None; 300];
            for (number, shape) in shapes.iter().enumerate().rev() {
                for (extent, zero) in extents(shape) {
                    for block in extent.first_block..extent.first_block + extent.block_count {
                        let value = if zero { 0 } else { block * 10 + number as u64 };
                        model[usize::try_from(block).unwrap()] = Some((number, value));
                    }
                }
            }
            let placed = shapes.iter().map(|shape| {
                batches(extents(shape).into_iter().map(|(extent, zero)| {
                    let cell_block = u32::try_from(extent.first_block).unwrap();
                    let place =
                        if zero { Place::Zero } else { Place::Cell { segment: 0, cell: 0, cell_block } };
                    Placed { extent, place }
                }).collect())
            });
            let mut seen = vec![None; 300];
            let mut at = 0;
            for (number, Placed { extent, place }) in all(Sweep::new(placed.collect())) {
                prop_assert!(extent.first_block >= at && extent.block_count > 0);
                at = extent.first_block + extent.block_count;
                for block in extent.first_block..at {
                    let value = match place.skip(block - extent.first_block) {
                        Place::Zero => 0,
                        Place::Cell { cell_block, .. } => u64::from(cell_block) * 10 + number as u64,
                    };
                    seen[usize::try_from(block).unwrap()] = Some((number, value));
                }
            }
            prop_assert_eq!(&seen, &model);

            let runs = shapes.iter().enumerate().map(|(number, shape)| {
                batches(extents(shape).into_iter().map(|(extent, zero)| {
                    let blocks = extent.first_block..extent.first_block + extent.block_count;
                    let hash = |block| block * 10 + number as u64;
                    let hashes = if zero { Vec::new() } else { blocks.map(hash).collect() };
                    HashRun { extent, hashes }
                }).collect())
            });
            let mut seen = vec![None; 300];
            for (number, run) in all(Sweep::new(runs.collect())) {
                for block in 0..run.extent.block_count {
                    let hash = if run.hashes.is_empty() { 0 } else { run.hashes[usize::try_from(block).unwrap()] };
                    seen[usize::try_from(run.extent.first_block + block).unwrap()] = Some((number, hash));
                }
            }
            prop_assert_eq!(&seen, &model);
        }
    }
}
