//! What the vault knows of a disk: block hashes in block order, the blocks received for this point laid over those of
//! the base.

use bytes::Bytes;
use holdfast_proto::v1::{BlockMapRun, block_map_run::Blocks};
use tokio::sync::mpsc;

use super::map_file::MapReader;

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

/// What comes over the channel of a map that is fetched.
#[derive(Debug)]
pub(super) enum MapMessage {
    Run(MapRun),
    /// The map was read to its end.
    End,
}

/// Where runs come from, in ascending order.
#[derive(Debug)]
pub(super) enum RunSource {
    Empty,
    Local(Box<MapReader>),
    Fetched(mpsc::Receiver<MapMessage>),
}

/// No next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BaseError {
    /// The local map's bytes are not what was written.
    Damaged,
    /// Whoever fetches the map has stopped.
    Stopped,
}

/// What is known of some blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    Nothing(u64),
    Zeros(u64),
    Hashes(Bytes),
}

/// The base and what lies over it. To be asked in ascending order.
#[derive(Debug)]
pub(super) struct Base {
    lower: Cursor,
    upper: Cursor,
}

/// One layer of it.
#[derive(Debug)]
pub(super) struct Cursor {
    source: RunSource,
    current: Option<MapRun>,
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

impl Known {
    pub(super) fn block_count(&self) -> u64 {
        match self {
            Self::Nothing(count) | Self::Zeros(count) => *count,
            Self::Hashes(hashes) => (hashes.len() / HASH_BYTES) as u64,
        }
    }

    /// The hash of the n-th of these blocks, if it is known.
    pub(super) fn hash(&self, index: usize) -> Option<u64> {
        match self {
            Self::Nothing(_) => None,
            Self::Zeros(_) => Some(0),
            Self::Hashes(hashes) => {
                let bytes = hashes.get(index * HASH_BYTES..(index + 1) * HASH_BYTES)?;
                bytes.try_into().ok().map(u64::from_le_bytes)
            }
        }
    }
}

impl Base {
    pub(super) fn new(lower: RunSource, upper: RunSource) -> Self {
        Self { lower: Cursor::new(lower), upper: Cursor::new(upper) }
    }

    /// What is known of the blocks from `first` on: at least one of them, at most `count`.
    ///
    /// # Errors
    /// If the map cannot be read on.
    pub(super) fn known(&mut self, first: u64, count: u64) -> Result<Known, BaseError> {
        match self.upper.known(first, count)? {
            Known::Nothing(uncovered) => self.lower.known(first, uncovered),
            known => Ok(known),
        }
    }
}

impl Cursor {
    pub(super) fn new(source: RunSource) -> Self {
        Self { source, current: None }
    }

    /// As [`Base::known`].
    pub(super) fn known(&mut self, first: u64, count: u64) -> Result<Known, BaseError> {
        loop {
            let run = match self.current.take() {
                Some(run) => run,
                None => match self.source.next_run()? {
                    Some(run) => run,
                    None => return Ok(Known::Nothing(count)),
                },
            };
            if run.end() <= first {
                continue;
            }
            let run = self.current.insert(run);
            if run.first_block > first {
                return Ok(Known::Nothing(count.min(run.first_block - first)));
            }
            let offset = first - run.first_block;
            let covered = count.min(run.block_count() - offset);
            return Ok(match &run.blocks {
                MapBlocks::Zeros(_) => Known::Zeros(covered),
                MapBlocks::Hashes(hashes) => Known::Hashes(slice(hashes, offset, covered)),
            });
        }
    }
}

/// The caller has checked that the run has these blocks, so they fit into memory.
#[allow(clippy::cast_possible_truncation)]
fn slice(hashes: &Bytes, offset: u64, count: u64) -> Bytes {
    let (offset, count) = (offset as usize, count as usize);
    hashes.slice(offset * HASH_BYTES..(offset + count) * HASH_BYTES)
}

impl RunSource {
    fn next_run(&mut self) -> Result<Option<MapRun>, BaseError> {
        let next = match self {
            Self::Empty => return Ok(None),
            Self::Local(reader) => reader.next_run()?,
            Self::Fetched(receiver) => match receiver.blocking_recv() {
                Some(MapMessage::Run(run)) => Some(run),
                Some(MapMessage::End) => None,
                None => return Err(BaseError::Stopped),
            },
        };
        if next.is_none() {
            *self = Self::Empty;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(values: &[u64]) -> Bytes {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn fetched(runs: Vec<MapRun>) -> RunSource {
        let (sender, receiver) = mpsc::channel(runs.len() + 1);
        for run in runs {
            sender.try_send(MapMessage::Run(run)).unwrap();
        }
        sender.try_send(MapMessage::End).unwrap();
        RunSource::Fetched(receiver)
    }

    #[test]
    fn the_overlay_hides_the_base_and_gaps_are_unknown() {
        let lower = vec![
            MapRun { first_block: 0, blocks: MapBlocks::Hashes(hashes(&[1, 2, 3, 4])) },
            MapRun { first_block: 4, blocks: MapBlocks::Zeros(1 << 40) },
        ];
        let upper = vec![
            MapRun { first_block: 1, blocks: MapBlocks::Hashes(hashes(&[20, 30])) },
            MapRun { first_block: 10, blocks: MapBlocks::Zeros(2) },
            MapRun { first_block: (1 << 40) + 6, blocks: MapBlocks::Zeros(1) },
        ];
        let mut base = Base::new(fetched(lower), fetched(upper));
        let mut at = 0;
        let mut pieces = Vec::new();
        let end = (1 << 40) + 8;
        while at < end {
            let known = base.known(at, end - at).unwrap();
            at += known.block_count();
            pieces.push(known);
        }
        assert_eq!(
            pieces,
            vec![
                Known::Hashes(hashes(&[1])),
                Known::Hashes(hashes(&[20, 30])),
                Known::Hashes(hashes(&[4])),
                Known::Zeros(6),
                Known::Zeros(2),
                Known::Zeros((1 << 40) + 4 - 12),
                Known::Nothing(2),
                Known::Zeros(1),
                Known::Nothing(1),
            ]
        );
    }

    #[test]
    fn a_map_that_stops_without_its_end_is_no_map() {
        let (sender, receiver) = mpsc::channel(1);
        drop(sender);
        let mut base = Base::new(RunSource::Fetched(receiver), RunSource::Empty);
        assert_eq!(base.known(0, 1), Err(BaseError::Stopped));
    }

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
