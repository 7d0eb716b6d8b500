//! What the vault knows of a disk: block hashes in block order, the blocks received for this point laid over those of
//! the base.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::map_file::MapReader;
use super::map_run::{HASH_BYTES, MapBlocks, MapRun, RunError, slice};

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
    pub(super) fn known(&mut self, first: u64, count: u64) -> Result<Known, RunError> {
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
    pub(super) fn known(&mut self, first: u64, count: u64) -> Result<Known, RunError> {
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

impl RunSource {
    fn next_run(&mut self) -> Result<Option<MapRun>, RunError> {
        let next = match self {
            Self::Empty => return Ok(None),
            Self::Local(reader) => reader.next_run()?,
            Self::Fetched(receiver) => match receiver.blocking_recv() {
                Some(MapMessage::Run(run)) => Some(run),
                Some(MapMessage::End) => None,
                None => return Err(RunError::Stopped),
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
        assert_eq!(base.known(0, 1), Err(RunError::Stopped));
    }
}
