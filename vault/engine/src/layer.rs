//! What was received for one disk so far: extents with their places, the newest winning. The hashes of the blocks stay in the
//! tables of the segments: memory grows with extents, not with blocks.

use std::collections::BTreeMap;

use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{Place, Placed};

/// Blocks that lie together on the disk and in their cell.
#[derive(Clone, Copy, Debug)]
struct Entry {
    block_count: u64,
    /// `segment` is an index into the session's list of segments.
    place: Place,
}

/// By first block; entries do not overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    entries: BTreeMap<u64, Entry>,
}

impl Layer {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The block after the last one.
    pub(crate) fn end(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(first, entry)| first + entry.block_count)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Placed> {
        self.entries.iter().map(placed)
    }

    /// Entries that start at `first` or later.
    pub(crate) fn starting_at(&self, first: u64) -> impl Iterator<Item = Placed> {
        self.entries.range(first..).map(placed)
    }

    /// Entries that touch `first..end`.
    pub(crate) fn range(&self, first: u64, end: u64) -> impl Iterator<Item = Placed> {
        let start = self.entries.range(..=first).next_back().map_or(first, |(start, _)| *start);
        self.entries
            .range(start..end.max(start))
            .map(placed)
            .filter(move |placed| placed.extent.first_block + placed.extent.block_count > first)
    }

    pub(crate) fn insert(&mut self, extent: Extent, place: Place) {
        let Extent { first_block, block_count } = extent;
        self.cut(first_block, first_block + block_count);
        self.entries.insert(first_block, Entry { block_count, place });
    }

    /// Forgets everything from `end` on.
    pub(crate) fn truncate(&mut self, end: u64) {
        self.cut(end, u64::MAX);
    }

    /// Makes room in `first..end`: what lies there goes, what reaches in is split.
    fn cut(&mut self, first: u64, end: u64) {
        if let Some((&start, _)) = self.entries.range(..first).next_back() {
            self.split(start, first);
        }
        if let Some((&start, _)) = self.entries.range(first..end).next_back() {
            self.split(start, end);
        }
        while let Some((&start, _)) = self.entries.range(first..end).next() {
            self.entries.remove(&start);
        }
    }

    /// Splits the entry that starts at `start` so that one starts at `at`, if it reaches that far.
    fn split(&mut self, start: u64, at: u64) {
        let Some(entry) = self.entries.get_mut(&start) else { return };
        let keep = at.saturating_sub(start);
        if keep == 0 || keep >= entry.block_count {
            return;
        }
        let tail = Entry { block_count: entry.block_count - keep, place: entry.place.skip(keep) };
        entry.block_count = keep;
        self.entries.insert(at, tail);
    }
}

fn placed((first_block, entry): (&u64, &Entry)) -> Placed {
    let extent = Extent { first_block: *first_block, block_count: entry.block_count };
    Placed { extent, place: entry.place }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against one value per block.
        #[test]
        fn the_newest_wins(
            inserts in proptest::collection::vec((0_u64..60, 1_u64..20, any::<bool>()), 0..40),
            cut in 0_u64..80,
        ) {
            let mut model = vec![None; 200];
            let mut layer = Layer::default();
            for (number, (first_block, block_count, zero)) in inserts.into_iter().enumerate() {
                let cell = u32::try_from(number).unwrap();
                let place =
                    if zero { Place::Zero } else { Place::Cell { segment: 0, cell, cell_block: 0 } };
                for at in 0..block_count {
                    model[usize::try_from(first_block + at).unwrap()] =
                        Some(if zero { None } else { Some((cell, at)) });
                }
                layer.insert(Extent { first_block, block_count }, place);
            }
            layer.truncate(cut);
            for slot in &mut model[usize::try_from(cut).unwrap()..] {
                *slot = None;
            }
            let mut seen = vec![None; 200];
            for placed in layer.iter() {
                for at in 0..placed.extent.block_count {
                    let slot = &mut seen[usize::try_from(placed.extent.first_block + at).unwrap()];
                    prop_assert!(slot.is_none(), "overlap");
                    *slot = Some(match placed.place {
                        Place::Zero => None,
                        Place::Cell { cell, cell_block, .. } => Some((cell, u64::from(cell_block) + at)),
                    });
                }
            }
            let end = model.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            prop_assert_eq!(layer.end(), end as u64);
            prop_assert_eq!(seen, model);
        }
    }
}
