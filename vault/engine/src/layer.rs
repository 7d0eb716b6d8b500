//! What was received for one disk so far: extents with their places, the newest winning. The hashes of the blocks stay in the
//! tables of the segments, and cells that follow each other on the disk as in their segment are one entry: memory grows neither
//! with blocks nor, where a disk is read from one end to the other, with cells.

use std::collections::BTreeMap;

use holdfast_vault_format::delta::{Place, Placed};
use holdfast_vault_format::{Extent, MAX_CELL_BLOCKS};

const CELL_BLOCKS: u64 = MAX_CELL_BLOCKS as u64;

/// Blocks that lie together on the disk, and in their cell or in full cells that follow each other.
#[derive(Clone, Copy, Debug)]
struct Entry {
    block_count: u64,
    /// Of the first block. `segment` is an index into the session's list of segments.
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

    /// Extents, each of one cell or of zeros.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Placed> {
        self.entries.iter().flat_map(|(first, entry)| pieces(*first, *entry))
    }

    /// Those that start at `first` or later.
    pub(crate) fn starting_at(&self, first: u64) -> impl Iterator<Item = Placed> {
        self.range(first, u64::MAX).skip_while(move |placed| placed.extent.first_block < first)
    }

    /// Those that touch `first..end`.
    pub(crate) fn range(&self, first: u64, end: u64) -> impl Iterator<Item = Placed> {
        let start = self.entries.range(..=first).next_back().map_or(first, |(start, _)| *start);
        self.entries
            .range(start..end.max(start))
            .flat_map(|(first, entry)| pieces(*first, *entry))
            .skip_while(move |placed| placed.extent.first_block + placed.extent.block_count <= first)
            .take_while(move |placed| placed.extent.first_block < end)
    }

    pub(crate) fn insert(&mut self, extent: Extent, place: Place) {
        let Extent { first_block, block_count } = extent;
        self.cut(first_block, first_block + block_count);
        if let Some((start, before)) = self.entries.range_mut(..first_block).next_back()
            && start + before.block_count == first_block
            && place != Place::Zero
            && skip(before.place, before.block_count) == place
        {
            before.block_count += block_count;
            return;
        }
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
        let tail = Entry { block_count: entry.block_count - keep, place: skip(entry.place, keep) };
        entry.block_count = keep;
        self.entries.insert(at, tail);
    }
}

/// The place of a block of an entry, so many behind its first one.
fn skip(place: Place, blocks: u64) -> Place {
    let Place::Cell { segment, cell, cell_block } = place else { return place };
    let block = u64::from(cell_block) + blocks;
    let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Place::Cell {
        segment,
        cell: cell.saturating_add(number(block / CELL_BLOCKS)),
        cell_block: number(block % CELL_BLOCKS),
    }
}

/// An entry, cell by cell.
fn pieces(first_block: u64, entry: Entry) -> impl Iterator<Item = Placed> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = entry.block_count - done;
        if left == 0 {
            return None;
        }
        let place = skip(entry.place, done);
        let block_count = match place {
            Place::Zero => left,
            Place::Cell { cell_block, .. } => left.min(CELL_BLOCKS - u64::from(cell_block)),
        };
        let extent = Extent { first_block: first_block + done, block_count };
        done += block_count;
        Some(Placed { extent, place })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell(cell: u32) -> Place {
        Place::Cell { segment: 0, cell, cell_block: 0 }
    }

    fn extent(first_block: u64, block_count: u64) -> Extent {
        Extent { first_block, block_count }
    }

    #[test]
    fn full_cells_that_follow_each_other_are_one_entry() {
        let mut layer = Layer::default();
        for number in 0..10_000 {
            layer.insert(extent(u64::from(number) * CELL_BLOCKS, CELL_BLOCKS), cell(number));
        }
        assert_eq!(layer.entries.len(), 1);
        assert_eq!(layer.iter().count(), 10_000);
        let placed = layer.range(5 * CELL_BLOCKS + 7, 7 * CELL_BLOCKS).collect::<Vec<_>>();
        let whole = |number: u32| Placed {
            extent: extent(u64::from(number) * CELL_BLOCKS, CELL_BLOCKS),
            place: cell(number),
        };
        assert_eq!(placed, [whole(5), whole(6)]);
        // A cell that is not full ends the entry, and so does another segment.
        layer.insert(extent(10_000 * CELL_BLOCKS, 3), cell(10_000));
        layer.insert(extent(10_000 * CELL_BLOCKS + 3, 3), cell(10_001));
        let other = Place::Cell { segment: 1, cell: 10_001, cell_block: 3 };
        layer.insert(extent(10_000 * CELL_BLOCKS + 6, 3), other);
        assert_eq!(layer.entries.len(), 3);
    }

    proptest! {
        /// Against one value per block. Each insert is so many full cells and a part of one more, whose numbers go on from the last
        /// insert's.
        #[test]
        fn the_newest_wins(
            inserts in proptest::collection::vec((0_u64..200, 0_u64..4, 1_u64..=CELL_BLOCKS, any::<bool>()), 0..40),
            cut in 0_u64..400,
            (first, len) in (0_u64..400, 0_u64..100),
        ) {
            let mut model = vec![None; 500];
            let mut layer = Layer::default();
            let mut number = 0;
            for (mut first_block, full, last, zero) in inserts {
                for block_count in std::iter::repeat_n(CELL_BLOCKS, usize::try_from(full).unwrap()).chain([last]) {
                    let place = if zero { Place::Zero } else { cell(number) };
                    for at in 0..block_count {
                        model[usize::try_from(first_block + at).unwrap()] =
                            Some(if zero { None } else { Some((number, at)) });
                    }
                    layer.insert(extent(first_block, block_count), place);
                    first_block += block_count;
                    number += 1;
                }
            }
            layer.truncate(cut);
            for slot in &mut model[usize::try_from(cut).unwrap()..] {
                *slot = None;
            }
            let mut seen = vec![None; 500];
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
            let all: Vec<Placed> = layer.iter().collect();
            let touches = |placed: &&Placed| placed.extent.first_block < first + len
                && placed.extent.first_block + placed.extent.block_count > first;
            let expected: Vec<Placed> = all.iter().filter(touches).copied().collect();
            prop_assert_eq!(layer.range(first, first + len).collect::<Vec<_>>(), expected);
            let expected: Vec<Placed> =
                all.iter().filter(|placed| placed.extent.first_block >= first).copied().collect();
            prop_assert_eq!(layer.starting_at(first).collect::<Vec<_>>(), expected);
        }
    }
}
