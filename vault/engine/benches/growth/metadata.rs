//! What is written per incremental beside the data: a disk of 1 TiB, an eighth of it data.

use holdfast_vault_engine::Extent;

use crate::disk::{CELL, Content, Disk, bytes};

const BLOCKS: u64 = 1 << 28;

pub(crate) async fn run() {
    println!(
        "| changed | runs of | blocks | backups | metadata per backup: median | mean | most | per changed block, mean |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut base = Disk::new(BLOCKS, Content::Thin).await;
    let cells: Vec<Extent> = (0..BLOCKS)
        .step_by(usize::try_from(CELL * 8).unwrap())
        .map(|first_block| Extent { first_block, block_count: CELL })
        .collect();
    base.back_up(&cells).await;
    for (share, per, backups) in
        [("0.01 %", 10_000, 30), ("0.1 %", 1000, 20), ("1 %", 100, 4), ("10 %", 10, 1)]
    {
        for length in [1, 16] {
            measure(base.copied().await, share, BLOCKS / per, length, backups).await;
        }
    }
}

async fn measure(mut disk: Disk, share: &str, changed: u64, length: u64, backups: usize) {
    let (mut costs, mut blocks) = (Vec::new(), 0);
    for _ in 0..backups {
        let before = disk.stored().0;
        let runs = disk.runs(changed / length, length);
        let count: u64 = runs.iter().map(|extent| extent.block_count).sum();
        let point = disk.back_up(&runs).await;
        // What data was sent is data: it compresses to next to nothing here.
        costs.push(disk.stored().0 - before - point.disks[0].sent_bytes);
        blocks += count;
    }
    let (mean, most) = (costs.iter().sum::<u64>() / costs.len() as u64, *costs.iter().max().unwrap());
    let each = costs.iter().sum::<u64>() as f64 / blocks as f64;
    costs.sort_unstable();
    let median = costs[costs.len() / 2];
    println!(
        "| {share} | {} KiB | {} | {backups} | {} | {} | {} | {each:.1} B |",
        length * 4,
        blocks / backups as u64,
        bytes(median),
        bytes(mean),
        bytes(most),
    );
}
