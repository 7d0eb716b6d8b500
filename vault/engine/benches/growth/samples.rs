//! How much of a clone is found when a vault is far larger than the samples: made-up hashes, the real table of samples.

use std::collections::HashSet;
use std::time::Instant;

use holdfast_vault_engine::Samples;
use uuid::Uuid;

use crate::disk::Random;

/// Cells of 128 KiB in a segment of 32 MiB, if half of the bytes are left after compression.
const CELLS: u64 = 512;
const BUDGET: usize = 128 << 20;

pub(crate) fn run() {
    println!(
        "| unique data | cells | memory | samples | one of | ns per cell learnt | found of a clone | found of runs of 4 MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, cells) in [("1 TiB", 1_u64 << 23), ("10 TiB", 10 << 23), ("100 TiB", 100 << 23)] {
        let samples = Samples::within(BUDGET);
        let start = Instant::now();
        for segment in 0..cells / CELLS {
            let number = u32::try_from(segment % 1_000_000).unwrap();
            samples.learn(
                Uuid::from_u128(1),
                segment / 1_000_000 + 1,
                number,
                (0..CELLS).map(|cell| hash(segment, cell)),
            );
        }
        let each = start.elapsed().as_nanos() / u128::from(cells);
        let stats = samples.stats();
        println!(
            "| {name} | {cells} | {:.0} MiB | {} | {} | {each} | {:.1} % | {:.1} % |",
            stats.memory as f64 / f64::from(1 << 20),
            stats.samples,
            1_u64 << stats.zero_bits,
            clone(&samples, cells / CELLS) * 100.0,
            scattered(&samples, cells / CELLS) * 100.0,
        );
    }
}

/// A machine whose disk is a run of 2,000 segments: a segment is followed once one of its cells was a sample, and so is the next.
fn clone(samples: &Samples, segments: u64) -> f64 {
    let (first, count) = (segments / 3, 2000.min(segments / 2));
    let (mut found, mut followed) = (0_u64, HashSet::new());
    for segment in first..first + count {
        for cell in 0..CELLS {
            if samples.knows(&hash(segment, cell)) {
                followed.insert(segment);
            }
            if followed.contains(&segment) {
                found += 1;
                if cell + 16 >= CELLS {
                    followed.insert(segment + 1);
                }
            }
        }
    }
    found as f64 / (count * CELLS) as f64
}

/// Nothing follows on anything but 32 cells in a row.
fn scattered(samples: &Samples, segments: u64) -> f64 {
    let mut random = Random(7);
    let (runs, mut found) = (20_000, 0_u64);
    for _ in 0..runs {
        let (segment, first) = (random.next() % segments, random.next() % (CELLS - 32));
        let hit = (first..first + 32).find(|cell| samples.knows(&hash(segment, *cell)));
        found += hit.map_or(0, |cell| first + 32 - cell);
    }
    found as f64 / f64::from(runs * 32)
}

/// As evenly spread as real hashes, and made in a few nanoseconds (splitmix64).
fn hash(segment: u64, cell: u64) -> [u8; 32] {
    let mut mixed = (segment * CELLS + cell).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&mixed.to_le_bytes());
    hash
}
