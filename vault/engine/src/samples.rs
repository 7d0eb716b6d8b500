//! Which stored cells may come again: a sample of their hashes, in a fixed amount of memory.
//!
//! A hash is a sample if it ends with so many zero bits. Where there is no more room, it takes one more of them, and half of the
//! samples are forgotten. One sample is enough to find a segment, and the directory of that has the hashes of the cells around it:
//! what was written together comes again together. So with more data the memory stays, and the rate at which cells are
//! found falls slowly.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::segment_id::SegmentId;

/// A sample in its table, with the byte of the table's own.
const SAMPLE_BYTES: usize = size_of::<(u64, u32)>() + 1;

/// Samples of the cells that gateways have stored or read. Of another process it knows only what it read.
#[derive(Debug)]
pub struct Samples(Mutex<State>);

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleStats {
    /// One of 2^n hashes is a sample.
    pub zero_bits: u32,
    pub samples: usize,
    pub segments: usize,
    /// Bytes of memory.
    pub memory: usize,
}

#[derive(Debug)]
struct State {
    most_samples: usize,
    most_segments: usize,
    zero_bits: u32,
    /// By the first eight bytes of the hash, the segment.
    samples: HashMap<u64, u32>,
    segments: Vec<Sampled>,
    machines: Vec<Uuid>,
    numbers: HashMap<Uuid, u32>,
}

/// A segment of generation 0.
#[derive(Clone, Copy, Debug)]
struct Sampled {
    machine: u32,
    number: u32,
    seq: u64,
}

impl Samples {
    /// Within so many bytes of memory, but room for some thousand samples.
    #[must_use]
    pub fn within(memory: usize) -> Self {
        // Tables double; while they do, the old one is there as well.
        let mut buckets = 4096;
        while (buckets * 2) * SAMPLE_BYTES <= memory / 16 * 9 {
            buckets *= 2;
        }
        let mut most_segments = 1024;
        while (most_segments * 2) * size_of::<Sampled>() <= memory / 4 {
            most_segments *= 2;
        }
        Self(Mutex::new(State {
            most_samples: buckets / 8 * 7,
            most_segments,
            zero_bits: 0,
            samples: HashMap::new(),
            segments: Vec::new(),
            machines: Vec::new(),
            numbers: HashMap::new(),
        }))
    }

    /// Takes samples of a segment; what was known of the same cells is replaced.
    pub fn learn(&self, machine: Uuid, seq: u64, number: u32, hashes: impl IntoIterator<Item = [u8; 32]>) {
        let mut state = self.state();
        let mut segment = None;
        for hash in hashes {
            let key = key(&hash);
            if !state.is_sample(key) {
                continue;
            }
            while state.samples.len() >= state.most_samples || state.segments.len() >= state.most_segments {
                state.thin_out();
                segment = None;
            }
            if !state.is_sample(key) {
                continue;
            }
            let at = *segment.get_or_insert_with(|| state.segment(machine, seq, number));
            state.samples.insert(key, at);
        }
    }

    /// The segment that a cell with this hash may be in.
    pub(crate) fn find(&self, hash: &[u8; 32]) -> Option<SegmentId> {
        let state = self.state();
        let sampled = state.segments.get(*state.samples.get(&key(hash))? as usize)?;
        let machine = *state.machines.get(sampled.machine as usize)?;
        Some(SegmentId { machine, seq: sampled.seq, number: sampled.number, generation: 0 })
    }

    /// Whether a cell with this hash is a sample.
    #[must_use]
    pub fn knows(&self, hash: &[u8; 32]) -> bool {
        self.find(hash).is_some()
    }

    #[must_use]
    pub fn stats(&self) -> SampleStats {
        let state = self.state();
        SampleStats {
            zero_bits: state.zero_bits,
            samples: state.samples.len(),
            segments: state.segments.len(),
            memory: state.samples.capacity() / 7 * 8 * SAMPLE_BYTES
                + state.segments.capacity() * size_of::<Sampled>(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_sample(&self, key: u64) -> bool {
        key.trailing_zeros() >= self.zero_bits
    }

    fn segment(&mut self, machine: Uuid, seq: u64, number: u32) -> u32 {
        let machines = &mut self.machines;
        let machine = *self.numbers.entry(machine).or_insert_with(|| {
            machines.push(machine);
            index(machines.len() - 1)
        });
        self.segments.push(Sampled { machine, number, seq });
        index(self.segments.len() - 1)
    }

    /// Forgets every other sample, and the segments that have none left.
    fn thin_out(&mut self) {
        self.zero_bits += 1;
        let zero_bits = self.zero_bits;
        // Filled anew: a table out of which half was removed may grow instead of being used again.
        let kept: Vec<_> =
            self.samples.drain().filter(|(key, _)| key.trailing_zeros() >= zero_bits).collect();
        self.samples.extend(kept);
        let mut moved = vec![None; self.segments.len()];
        let mut kept = 0;
        for at in self.samples.values_mut() {
            let to = moved[*at as usize].get_or_insert_with(|| {
                kept += 1;
                index(kept - 1)
            });
            *at = *to;
        }
        let mut segments = vec![None; kept];
        for (segment, to) in self.segments.iter().zip(moved) {
            if let Some(to) = to {
                segments[to as usize] = Some(*segment);
            }
        }
        self.segments.clear();
        self.segments.extend(segments.into_iter().flatten());
    }
}

fn key(hash: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(segment: u64, cells: u64) -> impl Iterator<Item = [u8; 32]> {
        (0..cells)
            .map(move |cell| *blake3::hash(&[segment.to_le_bytes(), cell.to_le_bytes()].concat()).as_bytes())
    }

    /// How many of these segments are found by any of their cells, and that none is taken for another.
    fn found(samples: &Samples, segments: std::ops::Range<u64>) -> u64 {
        let mut found = 0;
        for segment in segments {
            let hits: Vec<SegmentId> = hashes(segment, 500).filter_map(|hash| samples.find(&hash)).collect();
            let number = u32::try_from(segment).unwrap();
            assert!(hits.iter().all(|hit| (hit.number, hit.seq) == (number, segment / 100)));
            found += u64::from(!hits.is_empty());
        }
        found
    }

    #[test]
    fn the_memory_stays_and_the_rate_falls() {
        let machines = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let samples = Samples::within(1 << 20);
        let learn = |segment: u64| {
            let number = u32::try_from(segment).unwrap();
            samples.learn(
                machines[usize::from(segment.is_multiple_of(2))],
                segment / 100,
                number,
                hashes(segment, 500),
            );
        };
        (0..20).for_each(learn);
        assert_eq!(samples.stats().zero_bits, 0);
        assert_eq!(
            hashes(7, 500).filter(|hash| samples.find(hash).is_some()).count(),
            500,
            "all of them fit"
        );
        assert_eq!(samples.find(&hashes(7, 1).next().unwrap()).unwrap().machine, machines[0]);
        assert_eq!(samples.find(&hashes(8, 1).next().unwrap()).unwrap().machine, machines[1]);
        (20..2000).for_each(learn);
        let stats = samples.stats();
        assert_eq!(stats.zero_bits, 6, "{stats:?}");
        assert!(stats.memory <= 1 << 20, "{stats:?}");
        assert!(stats.samples > 10_000 && stats.segments > 1900, "{stats:?}");
        assert!(found(&samples, 0..2000) > 1950);
    }

    #[test]
    fn the_newest_place_counts() {
        let samples = Samples::within(0);
        samples.learn(Uuid::nil(), 1, 1, hashes(0, 10));
        samples.learn(Uuid::nil(), 2, 7, hashes(0, 5));
        let numbers: Vec<u32> = hashes(0, 11).filter_map(|hash| Some(samples.find(&hash)?.number)).collect();
        assert_eq!(numbers, [7, 7, 7, 7, 7, 1, 1, 1, 1, 1]);
    }

    /// Segments with one sample each.
    #[test]
    fn segments_are_bounded_too() {
        let samples = Samples::within(0);
        for segment in 0..20_000 {
            samples.learn(Uuid::nil(), segment / 100, u32::try_from(segment).unwrap(), hashes(segment, 1));
        }
        let stats = samples.stats();
        assert!(stats.segments <= 1024 && stats.samples == stats.segments, "{stats:?}");
        assert!(stats.segments > 300, "{stats:?}");
    }
}
