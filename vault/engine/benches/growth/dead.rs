//! What dead blocks hold: 1 % of a disk changes at random each day, points are kept for 14 days, 8 weeks and 6 months, and garbage is
//! collected daily.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{Action, ClockTrust, CollectOptions, Extent, Point};

use crate::disk::{Content, Disk, bytes};

const BLOCKS: u64 = 1 << 20;
const DAYS: u64 = 360;

pub(crate) async fn run() {
    println!(
        "| day | points | segments' bytes | live blocks | held by dead blocks | share | segments compacted | freed so |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut disk = Disk::new(BLOCKS, Content::Noise).await;
    let start = Utc::now();
    // By day: its point, and of which day each block was then.
    let mut kept: BTreeMap<u64, (Point, Vec<u16>)> = BTreeMap::new();
    let mut compactions = Compactions::default();
    let mut written = vec![0_u16; usize::try_from(BLOCKS).unwrap()];
    for day in 0..=DAYS {
        let changed = match day {
            0 => vec![Extent { first_block: 0, block_count: BLOCKS }],
            _ => disk.runs(BLOCKS / 100, 1),
        };
        for extent in &changed {
            for block in extent.first_block..extent.first_block + extent.block_count {
                written[usize::try_from(block).unwrap()] = u16::try_from(day).unwrap();
            }
        }
        let point = disk.back_up(&changed).await;
        kept.insert(day, (point, written.clone()));
        let over: Vec<u64> = kept.keys().copied().filter(|of| !is_kept(*of, day)).collect();
        for of in over {
            let (point, _) = kept.remove(&of).unwrap();
            let at_once = Action::Delete { window_seconds: 0 };
            disk.vault.decide_point(disk.machine, point.seq, at_once, "bench").await.unwrap();
        }
        let now = start + TimeDelta::days(i64::try_from(day).unwrap());
        let options = CollectOptions { clock: ClockTrust::Trusted, ..CollectOptions::new(now) };
        let mut run = disk.vault.begin_collection(options).await.unwrap();
        run.look(|_| {}).await.unwrap();
        run.compact(|_| {}).await.unwrap();
        run.condemn().await.unwrap();
        run.look_again().await.unwrap();
        let report = run.sweep().await.unwrap();
        if report.compacted_segments > 0 {
            compactions.segments += report.compacted_segments;
            compactions.bytes += report.compacted_bytes;
        }
        if day % 30 == 0 {
            tell(&disk, day, &kept, &compactions);
        }
    }
}

/// The last 14 days, one of each of the last 8 weeks, one of each of the last 6 months of 30 days.
fn is_kept(of: u64, today: u64) -> bool {
    today - of < 14
        || (of.is_multiple_of(7) && today - of < 56)
        || (of.is_multiple_of(30) && today - of < 180)
}

/// So far.
#[derive(Default)]
struct Compactions {
    segments: u64,
    bytes: u64,
}

fn tell(disk: &Disk, day: u64, kept: &BTreeMap<u64, (Point, Vec<u16>)>, compactions: &Compactions) {
    let mut live = 0_u64;
    let mut days = vec![false; usize::try_from(DAYS).unwrap() + 1];
    for block in 0..usize::try_from(BLOCKS).unwrap() {
        for (_, written) in kept.values() {
            let of = usize::from(written[block]);
            live += u64::from(!std::mem::replace(&mut days[of], true));
        }
        for (_, written) in kept.values() {
            days[usize::from(written[block])] = false;
        }
    }
    let mut stored = 0;
    for path in walk(&disk.path().join("seg")) {
        stored += path.metadata().unwrap().len();
    }
    // Noise: a live block takes its 4 KiB; the rest is dead blocks and less than 1 % of metadata.
    let dead = stored.saturating_sub(live * 4096);
    println!(
        "| {day} | {} | {} | {live} | {} | {:.1} % | {} | {} |",
        kept.len(),
        bytes(stored),
        bytes(dead),
        dead as f64 * 100.0 / stored as f64,
        compactions.segments,
        bytes(compactions.bytes)
    );
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
