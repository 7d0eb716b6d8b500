//! A simulated disk: what is sent of it, without it being anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::Utc;
use holdfast_vault_engine::{
    BLOCK_SIZE, Backup, BeginBackup, Begun, Consistency, DiskSpec, Extent, KeyFile, NewCell, Point, Storage,
    Vault, encode_cell,
};
use tempfile::TempDir;
use uuid::Uuid;

/// Blocks in a full cell.
pub(crate) const CELL: u64 = 32;

/// What blocks are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Next to nothing is stored of them: only metadata is looked at.
    Thin,
    /// Nothing compresses.
    Noise,
}

pub(crate) struct Disk {
    pub(crate) vault: Vault,
    pub(crate) machine: Uuid,
    pub(crate) blocks: u64,
    pub(crate) random: Random,
    content: Content,
    dir: TempDir,
}

impl Disk {
    pub(crate) async fn new(blocks: u64, content: Content) -> Self {
        let dir = folder();
        let path = dir.path().join("vault");
        std::fs::create_dir(&path).unwrap();
        let key = KeyFile::generate(&dir.path().join("key")).unwrap();
        let vault = Vault::create(Storage::directory(&path).unwrap(), &key).await.unwrap();
        Self { vault, machine: Uuid::from_u128(1), blocks, random: Random(42), content, dir }
    }

    /// The same disk in a vault of its own.
    pub(crate) async fn copied(&self) -> Self {
        let dir = folder();
        let key = self.path().with_file_name("key");
        let copied = Command::new("cp").arg("-r").args([&self.path(), &key]).arg(dir.path()).status();
        assert!(copied.unwrap().success());
        let key = KeyFile::load(&dir.path().join("key")).unwrap();
        let vault = Vault::open(Storage::directory(&dir.path().join("vault")).unwrap(), &key).await.unwrap();
        Self {
            vault,
            machine: self.machine,
            blocks: self.blocks,
            random: Random(42),
            content: self.content,
            dir,
        }
    }

    /// Backs up these extents, in block order; everything else is as before, or zeros if nothing was.
    pub(crate) async fn back_up(&mut self, changed: &[Extent]) -> Point {
        let request = BeginBackup {
            machine: self.machine,
            machine_name: "bench".to_owned(),
            snapshot_id: Uuid::new_v4(),
            step_id: Uuid::new_v4(),
            attempt: 1,
            consistency: Consistency::Crash,
            taken_at: Utc::now(),
            disks: vec![DiskSpec { name: "sda".to_owned(), size_bytes: self.blocks * BLOCK_SIZE as u64 }],
            at_least_seq: 0,
            damaged: Vec::new(),
        };
        let Begun::Open(backup) = self.vault.begin(request).await.unwrap() else {
            panic!("committed already")
        };
        if backup.disk_base("sda").unwrap().base_size_bytes == 0 {
            let all = Extent { first_block: 0, block_count: self.blocks };
            backup.push("sda", Vec::new(), vec![all]).await.unwrap();
        }
        self.send(&backup, changed).await;
        backup.prepare(&[]).await.unwrap().commit().await.unwrap()
    }

    async fn send(&mut self, backup: &Backup, changed: &[Extent]) {
        let (mut frame, mut cell, mut blocks) = (Vec::new(), Vec::new(), 0);
        for extent in changed {
            let mut rest = *extent;
            while rest.block_count > 0 {
                let taken = rest.block_count.min(CELL - blocks);
                cell.push(Extent { first_block: rest.first_block, block_count: taken });
                blocks += taken;
                rest =
                    Extent { first_block: rest.first_block + taken, block_count: rest.block_count - taken };
                if blocks == CELL {
                    frame.push(self.cell(std::mem::take(&mut cell), blocks));
                    blocks = 0;
                    if frame.len() == 64 {
                        backup.push("sda", std::mem::take(&mut frame), Vec::new()).await.unwrap();
                    }
                }
            }
        }
        if blocks > 0 {
            frame.push(self.cell(cell, blocks));
        }
        backup.push("sda", frame, Vec::new()).await.unwrap();
    }

    fn cell(&mut self, extents: Vec<Extent>, blocks: u64) -> NewCell {
        let mut plain = vec![1; usize::try_from(blocks).unwrap() * BLOCK_SIZE];
        match self.content {
            Content::Noise => self.random.fill(&mut plain),
            Content::Thin => plain[..8].copy_from_slice(&self.random.next().to_le_bytes()),
        }
        let plain_bytes = u32::try_from(plain.len()).unwrap();
        let (codec, data) = encode_cell(plain, 1);
        NewCell { codec, plain_bytes, extents, data: data.into() }
    }

    /// So many random runs of so many blocks, in order, joined where they meet.
    pub(crate) fn runs(&mut self, count: u64, length: u64) -> Vec<Extent> {
        let places = self.blocks / length;
        let mut firsts: Vec<u64> = (0..count).map(|_| self.random.next() % places * length).collect();
        firsts.sort_unstable();
        firsts.dedup();
        let mut extents: Vec<Extent> = Vec::new();
        for first_block in firsts {
            match extents.last_mut() {
                Some(last) if last.first_block + last.block_count == first_block => {
                    last.block_count += length
                }
                _ => extents.push(Extent { first_block, block_count: length }),
            }
        }
        extents
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    /// Bytes and number of all objects.
    pub(crate) fn stored(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        add(&self.path(), &mut sum);
        sum
    }
}

fn folder() -> TempDir {
    let parent = std::env::var("HOLDFAST_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into());
    tempfile::tempdir_in(parent).unwrap()
}

fn add(dir: &Path, sum: &mut (u64, u64)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            add(&entry.path(), sum);
        } else if entry.file_name() != "reserve" {
            sum.0 += entry.metadata().unwrap().len();
            sum.1 += 1;
        }
    }
}

/// xorshift64*: the same for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let next = self.next().to_le_bytes();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
    }
}

/// Bytes with a unit.
pub(crate) fn bytes(count: u64) -> String {
    let count = count as f64;
    if count < 1e4 * 1024.0 {
        format!("{:.1} KiB", count / 1024.0)
    } else {
        format!("{:.1} MiB", count / 1024.0 / 1024.0)
    }
}
