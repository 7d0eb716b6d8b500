//! What was received for one disk so far: extents with their places and hashes, the newest winning.

use std::collections::BTreeMap;

use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::Place;

/// Blocks that lie together on the disk and in their cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) block_count: u64,
    /// `segment` is an index into the session's list of segments.
    pub(crate) place: Place,
    /// One per block; none for zeros.
    pub(crate) hashes: Vec<u64>,
}

/// By first block; entries do not overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    entries: BTreeMap<u64, Received>,
}

impl Layer {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (Extent, &Received)> {
        self.entries
            .iter()
            .map(|(first, entry)| (Extent { first_block: *first, block_count: entry.block_count }, entry))
    }

    /// Entries that touch `first..end`.
    pub(crate) fn range(&self, first: u64, end: u64) -> impl Iterator<Item = (Extent, &Received)> {
        let start = self.entries.range(..=first).next_back().map_or(first, |(start, _)| *start);
        self.entries
            .range(start..end.max(start))
            .map(|(first, entry)| (Extent { first_block: *first, block_count: entry.block_count }, entry))
            .filter(move |(extent, _)| extent.first_block + extent.block_count > first)
    }

    pub(crate) fn insert(&mut self, first: u64, entry: Received) {
        self.cut(first, first + entry.block_count);
        self.entries.insert(first, entry);
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
        let inside: Vec<u64> = self.entries.range(first..end).map(|(start, _)| *start).collect();
        for start in inside {
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
        let place = match entry.place {
            Place::Zero => Place::Zero,
            Place::Cell { segment, cell, cell_block } => {
                let moved = u32::try_from(keep).unwrap_or(u32::MAX);
                Place::Cell { segment, cell, cell_block: cell_block.saturating_add(moved) }
            }
        };
        let keep_hashes = usize::try_from(keep).unwrap_or(usize::MAX).min(entry.hashes.len());
        let hashes = entry.hashes.split_off(keep_hashes);
        let tail = Received { block_count: entry.block_count - keep, place, hashes };
        entry.block_count = keep;
        self.entries.insert(at, tail);
    }
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
            for (number, (first, block_count, zero)) in inserts.into_iter().enumerate() {
                let cell = u32::try_from(number).unwrap();
                let (place, hashes) = if zero {
                    (Place::Zero, Vec::new())
                } else {
                    (Place::Cell { segment: 0, cell, cell_block: 0 }, (0..block_count).map(|n| n + 1).collect())
                };
                for at in 0..block_count {
                    model[usize::try_from(first + at).unwrap()] = Some(if zero { None } else { Some((cell, at)) });
                }
                layer.insert(first, Received { block_count, place, hashes });
            }
            layer.truncate(cut);
            for slot in &mut model[usize::try_from(cut).unwrap()..] {
                *slot = None;
            }
            let mut seen = vec![None; 200];
            for (extent, entry) in layer.iter() {
                for at in 0..extent.block_count {
                    let slot = &mut seen[usize::try_from(extent.first_block + at).unwrap()];
                    prop_assert!(slot.is_none(), "overlap");
                    *slot = Some(match entry.place {
                        Place::Zero => None,
                        Place::Cell { cell, cell_block, .. } => {
                            let block = u64::from(cell_block) + at;
                            prop_assert_eq!(entry.hashes[usize::try_from(at).unwrap()], block + 1);
                            Some((cell, block))
                        }
                    });
                }
            }
            prop_assert_eq!(seen, model);
        }
    }
}
