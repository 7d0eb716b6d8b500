use std::collections::BTreeMap;

/// Which cells stand for known ones, and for which: each by the index of its segment and its number. A clone has one for each 128 KiB of its
/// disk, but they follow each other as the lender's do, and take a hundred bytes or so for each row of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lent {
    rows: BTreeMap<(u32, u32), Row>,
}

/// So many cells, from this known one on.
#[derive(Clone, Debug)]
struct Row {
    count: u32,
    segment: u32,
    first: u32,
}

impl Lent {
    pub(super) fn insert(&mut self, (segment, cell): (u32, u32), known: (u32, u32)) {
        if let Some(((of, first), row)) = self.rows.range_mut(..=(segment, cell)).next_back()
            && (*of, *first + row.count) == (segment, cell)
            && (row.segment, row.first + row.count) == known
        {
            row.count += 1;
            return;
        }
        self.rows.insert((segment, cell), Row { count: 1, segment: known.0, first: known.1 });
    }

    pub(crate) fn get(&self, (segment, cell): (u32, u32)) -> Option<(u32, u32)> {
        let ((of, first), row) = self.rows.range(..=(segment, cell)).next_back()?;
        let at = cell.checked_sub(*first).filter(|at| *of == segment && *at < row.count)?;
        Some((row.segment, row.first + at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cells_that_follow_each_other_take_one_row() {
        let mut lent = Lent::default();
        for cell in 0..1000 {
            lent.insert((3, cell + 5), (1, cell + 70));
        }
        assert_eq!(lent.rows.len(), 1);
        assert_eq!(lent.get((3, 1004)), Some((1, 1069)));
        for not_there in [(3, 4), (3, 1005), (2, 5), (4, 5)] {
            assert_eq!(lent.get(not_there), None);
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(cells in proptest::collection::hash_map((0..3_u32, 0..40_u32), (0..2_u32, 0..40_u32), 0..60)) {
            let mut lent = Lent::default();
            for (cell, known) in &cells {
                lent.insert(*cell, *known);
            }
            for segment in 0..3 {
                for cell in 0..45 {
                    prop_assert_eq!(lent.get((segment, cell)), cells.get(&(segment, cell)).copied());
                }
            }
        }
    }
}
