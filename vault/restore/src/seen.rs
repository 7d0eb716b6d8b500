use std::collections::BTreeMap;

/// Which blocks came: each has to come exactly once.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Runs of blocks, by the first one, with the block after the last one. Neighbours are joined: blocks come nearly in
    /// order, so there are few, however large the disk is said to be.
    runs: BTreeMap<u64, u64>,
    count: u64,
}

impl Seen {
    /// Whether none of these blocks came before.
    pub(crate) fn claim(&mut self, first: u64, end: u64) -> bool {
        let before = self.runs.range(..=first).next_back().map(|(start, end)| (*start, *end));
        let next = self.runs.range(first..).next().map(|(start, _)| *start);
        if first == end {
            return true;
        }
        if before.is_some_and(|(_, before)| before > first) || next.is_some_and(|next| next < end) {
            return false;
        }
        let start = before.filter(|(_, before)| *before == first).map_or(first, |(start, _)| start);
        let joined = if next == Some(end) { self.runs.remove(&end) } else { None };
        self.runs.insert(start, joined.unwrap_or(end));
        self.count += end - first;
        true
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    #[cfg(test)]
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn each_block_comes_once_in_whatever_order() {
        let mut random = 1_u64;
        for _ in 0..200 {
            let (mut seen, mut model) = (Seen::default(), [false; 40]);
            for _ in 0..60 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let first = (random >> 33) % 40;
                let end = (first + (random >> 60)).min(40);
                let blocks = &mut model[usize::try_from(first).unwrap()..usize::try_from(end).unwrap()];
                let fresh = blocks.iter().all(|seen| !seen);
                assert_eq!(seen.claim(first, end), fresh);
                if fresh {
                    blocks.fill(true);
                }
                assert_eq!(seen.count, model.iter().filter(|seen| **seen).count() as u64);
            }
            let starts = (0..40).filter(|at| model[*at] && (*at == 0 || !model[at - 1])).count();
            assert_eq!(seen.runs.len(), starts, "neighbours are joined");
        }
    }
}
