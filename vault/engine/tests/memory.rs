//! What a backup takes of memory depends on its extents, not on its blocks. A binary of its own: it measures the process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Instant;

use chrono::Utc;
use futures::TryStreamExt as _;
use holdfast_vault_engine::{
    BLOCK_SIZE, Backup, BeginBackup, Begun, BlockHasher, Consistency, DiskSpec, Extent, KeyFile,
    MAX_CELL_BYTES, MapBlocks, MapLayer, NewCell, Storage, Vault, decode_cell, encode_cell,
};
use uuid::Uuid;

const DISK: u64 = 8 << 30;
const BLOCKS: u64 = DISK / BLOCK_SIZE as u64;
const CELL_BLOCKS: u64 = (MAX_CELL_BYTES / BLOCK_SIZE) as u64;
const FRAME_CELLS: u64 = 8;
/// Growth that is allowed, in KiB: a segment that is filled and those on their way, tables and pages that are read, some
/// 100 bytes per extent. Holding the hashes of all blocks took 240 MiB.
const ALLOWED: u64 = 112 << 10;

/// A value of this process in KiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs a part of the test, in which the process must not take much more memory than in the beginning.
async fn bounded<T>(what: &str, before: u64, work: impl Future<Output = T>) -> T {
    // The kernel forgets the peak so far.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let start = Instant::now();
    let result = work.await;
    let grown = status("VmHWM:").saturating_sub(before);
    println!("{what}: at most {grown} KiB more, {:?}", start.elapsed());
    assert!(grown <= ALLOWED, "{what}: it grew by {grown} KiB");
    result
}

fn request(machine: Uuid) -> BeginBackup {
    BeginBackup {
        machine,
        machine_name: "web1".to_owned(),
        snapshot_id: Uuid::new_v4(),
        step_id: Uuid::new_v4(),
        attempt: 1,
        consistency: Consistency::Crash,
        taken_at: Utc::now(),
        disks: vec![DiskSpec { name: "sda".to_owned(), size_bytes: DISK }],
        at_least_seq: 0,
        damaged: Vec::new(),
    }
}

async fn begin(vault: &Vault, machine: Uuid) -> Backup {
    match vault.begin(request(machine)).await.unwrap() {
        Begun::Open(backup) => backup,
        Begun::AlreadyCommitted(point) => panic!("committed already: {point:?}"),
    }
}

/// Sends the whole disk, each byte of it `value`.
async fn push(backup: &Backup, value: u8) {
    let (codec, data) = encode_cell(vec![value; MAX_CELL_BYTES], 1);
    let data = bytes::Bytes::from(data);
    for frame in (0..BLOCKS / CELL_BLOCKS).step_by(usize::try_from(FRAME_CELLS).unwrap()) {
        let cell = |number: u64| NewCell {
            codec,
            plain_bytes: u32::try_from(MAX_CELL_BYTES).unwrap(),
            extents: vec![Extent { first_block: number * CELL_BLOCKS, block_count: CELL_BLOCKS }],
            data: data.clone(),
        };
        backup.push("sda", (frame..frame + FRAME_CELLS).map(cell).collect(), Vec::new()).await.unwrap();
    }
}

/// Reads the whole map, which must know each block as one of `value`.
async fn check_map(backup: &Backup, value: u8) {
    let key = backup.disk_base("sda").unwrap().block_hash_key;
    let wanted = BlockHasher::new(&key).hash(&[value; BLOCK_SIZE]).to_le_bytes();
    let mut runs = std::pin::pin!(backup.read_map("sda", MapLayer::Merged).await.unwrap());
    let mut at = 0;
    while let Some(run) = runs.try_next().await.unwrap() {
        assert_eq!(run.first_block, at);
        let MapBlocks::Hashes(hashes) = run.blocks else { panic!("zeros") };
        assert!(hashes.as_chunks::<8>().0.iter().all(|hash| *hash == wanted));
        at += hashes.len() as u64 / 8;
    }
    assert_eq!(at, BLOCKS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_not_held() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault");
    std::fs::create_dir(&path).unwrap();
    let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
    let vault = Vault::create(Storage::directory(&path).unwrap(), &key).await.unwrap();
    let machine = Uuid::new_v4();

    let before = status("VmRSS:");
    let full = async {
        let backup = begin(&vault, machine).await;
        push(&backup, 1).await;
        backup.prepare(&[]).await.unwrap().commit().await.unwrap();
    };
    bounded("a full backup", before, full).await;
    let interrupted = async {
        let backup = begin(&vault, machine).await;
        check_map(&backup, 1).await;
        push(&backup, 2).await;
        backup.flush().await.unwrap();
        check_map(&backup, 2).await;
    };
    bounded("all of it changed", before, interrupted).await;
    let resumed = async {
        let backup = begin(&vault, machine).await;
        check_map(&backup, 2).await;
        backup.prepare(&[]).await.unwrap().commit().await.unwrap()
    };
    let point = bounded("resumed and merged", before, resumed).await;

    let mut windows = std::pin::pin!(vault.open_disk(&point, "sda").await.unwrap().windows());
    let mut restored = 0;
    while let Some(window) = windows.try_next().await.unwrap() {
        for cell in window.cells.iter().step_by(97) {
            let plain = decode_cell(cell.codec, cell.plain_bytes, &cell.data).unwrap();
            assert!(plain == vec![2; plain.len()]);
        }
        restored += window
            .cells
            .iter()
            .flat_map(|cell| &cell.pieces)
            .map(|piece| piece.extent.block_count)
            .sum::<u64>();
    }
    assert_eq!(restored, BLOCKS);
}
