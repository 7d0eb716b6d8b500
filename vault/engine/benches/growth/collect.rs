//! What a collection reads to find out what is needed: a disk of 1 TiB, an eighth of it data, 0.1 % changed at random in each incremental.

use std::time::Instant;

use chrono::Utc;
use holdfast_vault_engine::{CollectOptions, Compaction, Extent, KeyFile, Storage, Vault};

use crate::disk::{CELL, Content, Disk, bytes};

const BLOCKS: u64 = 1 << 28;
const CHANGED: u64 = BLOCKS / 1000;

pub(crate) async fn run() {
    println!("| points | stored | collection | it says that it read | read by the process | seconds |");
    println!("|---|---|---|---|---|---|");
    let mut disk = Disk::new(BLOCKS, Content::Thin).await;
    let cells: Vec<Extent> = (0..BLOCKS)
        .step_by(usize::try_from(CELL * 8).unwrap())
        .map(|first_block| Extent { first_block, block_count: CELL })
        .collect();
    disk.back_up(&cells).await;
    for points in 1..=30 {
        if points > 1 {
            let runs = disk.runs(CHANGED, 1);
            disk.back_up(&runs).await;
        }
        if [1, 2, 10, 30].contains(&points) {
            collect(&disk, points, Compaction::Due, "looks").await;
            collect(&disk, points, Compaction::All, "compacts").await;
        }
    }
}

/// By a gateway that has nothing in memory.
async fn collect(disk: &Disk, points: usize, compaction: Compaction, what: &str) {
    let key = KeyFile::load(&disk.path().with_file_name("key")).unwrap();
    let vault = Vault::open(Storage::directory(&disk.path()).unwrap(), &key).await.unwrap();
    let options = CollectOptions { compaction, ..CollectOptions::new(Utc::now()) };
    let (before, start) = (read_by_the_process(), Instant::now());
    let report = vault.plan_collection(options, |_| {}).await.unwrap();
    println!(
        "| {points} | {} | {what} | {} | {} | {:.2} |",
        bytes(disk.stored().0),
        bytes(report.read_bytes),
        bytes(read_by_the_process() - before),
        start.elapsed().as_secs_f64()
    );
}

fn read_by_the_process() -> u64 {
    let counts = std::fs::read_to_string("/proc/self/io").unwrap();
    counts.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}
