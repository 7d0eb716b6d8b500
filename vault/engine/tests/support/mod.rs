//! Backs images up into a real vault in a temporary directory, the way an agent would: by comparing with the map.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::Utc;
use futures::StreamExt as _;
use holdfast_vault_engine::{
    BLOCK_SIZE, Backup, BeginBackup, Begun, BlockHasher, Consistency, DiskSpec, Extent, KeyFile, MapBlocks,
    MapLayer, NewCell, Outcome, Point, Vault, VaultError, cell_hash, decode_cell, encode_cell, store,
};
use uuid::Uuid;

pub const MACHINE: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);

pub struct Bed {
    pub dir: tempfile::TempDir,
    pub vault: Vault,
}

impl Bed {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("vault")).unwrap();
        let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
        let vault = Vault::create(store::directory(&dir.path().join("vault")).unwrap(), &key).await.unwrap();
        Self { dir, vault }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    /// Another process's view: nothing cached.
    pub async fn reopen(&self) -> Result<Vault, VaultError> {
        let key = KeyFile::load(&self.dir.path().join("vault.key"))?;
        Vault::open(store::directory(&self.root())?, &key).await
    }

    pub async fn backup(&self, disks: &[(&str, &[u8])]) -> Point {
        let backup = begin(&self.vault, disks, 1).await;
        for (name, image) in disks {
            send(&backup, name, image).await;
        }
        let point = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
        for (name, image) in disks {
            assert!(restore(&self.vault, &point, name).await.unwrap() == **image, "restore of {name}");
        }
        point
    }
}

pub fn request(disks: &[(&str, &[u8])], attempt: i64) -> BeginBackup {
    BeginBackup {
        machine: MACHINE,
        machine_name: "web1".to_owned(),
        snapshot_id: Uuid::new_v4(),
        step_id: Uuid::new_v4(),
        attempt,
        consistency: Consistency::FileSystem,
        taken_at: Utc::now(),
        disks: disks
            .iter()
            .map(|(name, image)| DiskSpec { name: (*name).to_owned(), size_bytes: image.len() as u64 })
            .collect(),
        at_least_seq: 0,
    }
}

pub async fn begin(vault: &Vault, disks: &[(&str, &[u8])], attempt: i64) -> Backup {
    match vault.begin(request(disks, attempt)).await.unwrap() {
        Begun::Open(backup) => backup,
        Begun::AlreadyCommitted(point) => panic!("committed before: {point:?}"),
    }
}

/// Blocks that the vault knows, by number.
pub async fn read_map(
    backup: &Backup,
    disk: &str,
    layer: MapLayer,
) -> Result<BTreeMap<u64, u64>, VaultError> {
    let mut map = BTreeMap::new();
    let mut stream = Box::pin(backup.read_map(disk, layer).await?);
    while let Some(run) = stream.next().await {
        let run = run?;
        match run.blocks {
            MapBlocks::Zero(count) => {
                for at in 0..count {
                    map.insert(run.first_block + at, 0);
                }
            }
            MapBlocks::Hashes(bytes) => {
                for (at, hash) in (0..).zip(bytes.as_chunks::<8>().0) {
                    map.insert(run.first_block + at, u64::from_le_bytes(*hash));
                }
            }
        }
    }
    Ok(map)
}

pub fn padded(image: &[u8]) -> Vec<u8> {
    let mut padded = image.to_vec();
    padded.resize(image.len().next_multiple_of(BLOCK_SIZE), 0);
    padded
}

/// Sends what differs; answers how many blocks that were.
pub async fn send(backup: &Backup, disk: &str, image: &[u8]) -> usize {
    let base = backup.disk_base(disk).unwrap();
    let hasher = BlockHasher::new(&base.block_hash_key);
    let map = read_map(backup, disk, MapLayer::Merged).await.unwrap();
    let image = padded(image);
    let (mut changed, mut zeros) = (Vec::new(), Vec::new());
    for (number, block) in (0_u64..).zip(image.chunks(BLOCK_SIZE)) {
        let hash = hasher.hash(block);
        if map.get(&number) == Some(&hash) {
            continue;
        }
        if hash == 0 {
            zeros.push(Extent { first_block: number, block_count: 1 })
        } else {
            changed.push(number)
        }
    }
    let mut receipts = Vec::new();
    for numbers in changed.chunks(32) {
        let mut plain = Vec::new();
        let mut extents: Vec<Extent> = Vec::new();
        for number in numbers {
            let at = usize::try_from(*number).unwrap() * BLOCK_SIZE;
            plain.extend_from_slice(&image[at..at + BLOCK_SIZE]);
            match extents.last_mut() {
                Some(last) if last.first_block + last.block_count == *number => last.block_count += 1,
                _ => extents.push(Extent { first_block: *number, block_count: 1 }),
            }
        }
        let (codec, data) = encode_cell(&plain, 1);
        let plain_bytes = u32::try_from(plain.len()).unwrap();
        let cell = NewCell { codec, plain_bytes, extents, data: data.into() };
        receipts.push(backup.push(disk, vec![cell], Vec::new()).await.unwrap());
    }
    let sent = changed.len() + zeros.len();
    receipts.push(backup.push(disk, Vec::new(), zeros).await.unwrap());
    backup.flush().await.unwrap();
    for receipt in receipts {
        receipt.durable().await.unwrap();
    }
    sent
}

/// Restores a disk as any reader must: decode, compare the hash, write each block once.
pub async fn restore(vault: &Vault, point: &Point, disk: &str) -> Result<Vec<u8>, VaultError> {
    let reader = vault.open_disk(point, disk).await?;
    let size = usize::try_from(reader.size_bytes()).unwrap();
    let mut image = vec![0xee; size.next_multiple_of(BLOCK_SIZE)];
    let mut seen = vec![false; image.len() / BLOCK_SIZE];
    let mut windows = Box::pin(reader.windows());
    let mut write = |extent: Extent, bytes: Option<&[u8]>| {
        for at in 0..usize::try_from(extent.block_count).unwrap() {
            let block = usize::try_from(extent.first_block).unwrap() + at;
            assert!(!std::mem::replace(&mut seen[block], true), "block {block} came twice");
            let target = &mut image[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE];
            match bytes {
                Some(bytes) => target.copy_from_slice(&bytes[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE]),
                None => target.fill(0),
            }
        }
    };
    while let Some(window) = windows.next().await {
        let window = window?;
        for extent in window.zeros {
            write(extent, None);
        }
        for cell in window.cells {
            let plain =
                decode_cell(cell.codec, cell.plain_bytes, &cell.data).expect("an authenticated cell decodes");
            assert_eq!(cell_hash(&plain), cell.plain_hash);
            for piece in cell.pieces {
                write(piece.extent, Some(&plain[piece.cell_block as usize * BLOCK_SIZE..]));
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen), "a block is missing");
    image.truncate(size);
    Ok(image)
}

/// Deterministic bytes that do not compress well and are nowhere zero for long.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Every object of the vault.
pub fn objects(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

pub fn point_of(outcome: Option<Outcome>) -> Option<Point> {
    match outcome {
        Some(Outcome::Point(point)) => Some(point),
        _ => None,
    }
}
