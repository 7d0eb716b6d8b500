//! A piece of a block map: consecutive blocks with their hashes, from wherever it was read.

use bytes::Bytes;
use holdfast_proto::v1::{BlockMapRun, block_map_run::Blocks};

/// Bytes of one hash.
pub(super) const HASH_BYTES: usize = 8;
/// Largest run that is accepted from a gateway, in bytes of hashes.
const MAX_RUN_BYTES: usize = 1 << 20;

/// Consecutive blocks with known hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MapRun {
    pub(super) first_block: u64,
    pub(super) blocks: MapBlocks,
}

/// The hashes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MapBlocks {
    /// 8 bytes per block, little endian; 0 stands for a block of zeros.
    Hashes(Bytes),
    /// So many blocks of zeros.
    Zeros(u64),
}

/// No next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunError {
    /// The local map's bytes are not what was written.
    Damaged,
    /// Whoever fetches the map has stopped.
    Stopped,
}

impl MapRun {
    /// Reads a run that must not begin before `next_block`.
    ///
    /// # Errors
    /// How the gateway does not keep to the protocol.
    pub(super) fn from_wire(run: BlockMapRun, next_block: u64) -> Result<Self, &'static str> {
        let blocks = match run.blocks {
            Some(Blocks::Hashes(hashes))
                if !hashes.is_empty()
                    && hashes.len() <= MAX_RUN_BYTES
                    && hashes.len().is_multiple_of(HASH_BYTES) =>
            {
                MapBlocks::Hashes(hashes)
            }
            Some(Blocks::ZeroCount(count)) if count > 0 => MapBlocks::Zeros(count),
            _ => return Err("a run of the block map has a wrong length"),
        };
        let run = Self { first_block: run.first_block, blocks };
        if run.first_block < next_block || run.first_block.checked_add(run.block_count()).is_none() {
            return Err("the runs of the block map are not in order");
        }
        Ok(run)
    }

    pub(super) fn block_count(&self) -> u64 {
        match &self.blocks {
            MapBlocks::Hashes(hashes) => (hashes.len() / HASH_BYTES) as u64,
            MapBlocks::Zeros(count) => *count,
        }
    }

    /// The block after the last one.
    pub(super) fn end(&self) -> u64 {
        self.first_block.saturating_add(self.block_count())
    }

    /// What of this run lies from `first`, which is in it, up to `end`.
    pub(super) fn part(&self, first: u64, end: u64) -> Self {
        let count = end.min(self.end()) - first;
        let blocks = match &self.blocks {
            MapBlocks::Hashes(hashes) => MapBlocks::Hashes(slice(hashes, first - self.first_block, count)),
            MapBlocks::Zeros(_) => MapBlocks::Zeros(count),
        };
        Self { first_block: first, blocks }
    }
}

/// The caller has checked that the run has these blocks, so they fit into memory.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn slice(hashes: &Bytes, offset: u64, count: u64) -> Bytes {
    let (offset, count) = (offset as usize, count as usize);
    hashes.slice(offset * HASH_BYTES..(offset + count) * HASH_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_block: u64, blocks: Option<Blocks>) -> BlockMapRun {
        BlockMapRun { first_block, blocks }
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        MapRun::from_wire(run(3, Some(Blocks::Hashes(vec![0; 16].into()))), 3).unwrap();
        MapRun::from_wire(run(5, Some(Blocks::ZeroCount(7))), 3).unwrap();
        for (wrong, next_block, word) in [
            (run(0, None), 0, "length"),
            (run(0, Some(Blocks::ZeroCount(0))), 0, "length"),
            (run(0, Some(Blocks::Hashes(vec![0; 15].into()))), 0, "length"),
            (run(0, Some(Blocks::Hashes(vec![].into()))), 0, "length"),
            (run(0, Some(Blocks::Hashes(vec![0; MAX_RUN_BYTES + 8].into()))), 0, "length"),
            (run(2, Some(Blocks::ZeroCount(1))), 3, "order"),
            (run(u64::MAX, Some(Blocks::ZeroCount(2))), 0, "order"),
        ] {
            let refused = MapRun::from_wire(wrong, next_block).map(|run| run.first_block).unwrap_err();
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
}
