//! A thousand incrementals of one disk: how deep its stacks get, and how long the newest point takes to open.

use std::pin::pin;
use std::time::Instant;

use futures::StreamExt as _;
use holdfast_vault_engine::{Extent, KeyFile, Storage, Vault};

use crate::disk::{Content, Disk, bytes};

const BLOCKS: u64 = 1 << 20;
const CHANGED: u64 = BLOCKS / 1000;

pub(crate) async fn run() {
    println!(
        "| incrementals | depth: newest | mean so far | most | newest point opened | its first 256 MiB planned and read | objects | stored |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut disk = Disk::new(BLOCKS, Content::Thin).await;
    disk.back_up(&[Extent { first_block: 0, block_count: BLOCKS }]).await;
    let (mut depths, mut most) = (0, 0);
    for number in 1..=1000_usize {
        let runs = disk.runs(CHANGED, 1);
        let point = disk.back_up(&runs).await;
        let depth = point.disks[0].stack.len();
        depths += depth;
        most = most.max(depth);
        if number == 1 || number % 200 == 0 {
            // By a gateway that has nothing in memory.
            let key = KeyFile::load(&disk.path().with_file_name("key")).unwrap();
            let vault = Vault::open(Storage::directory(&disk.path()).unwrap(), &key).await.unwrap();
            let start = Instant::now();
            let reader = vault.open_disk(&point, "sda").await.unwrap();
            let opened = start.elapsed();
            let mut windows = pin!(reader.windows());
            windows.next().await.unwrap().unwrap();
            let took = start.elapsed();
            let (stored, objects) = disk.stored();
            println!(
                "| {number} | {depth} | {:.1} | {most} | {:.1} ms | {:.1} ms | {objects} | {} |",
                depths as f64 / number as f64,
                opened.as_secs_f64() * 1000.0,
                took.as_secs_f64() * 1000.0,
                bytes(stored)
            );
        }
    }
}
