//! A vault in a temporary directory, an agent that keeps its side of the contract, disks with known content.

pub(crate) mod agent;
pub(crate) mod anatomy;
pub(crate) mod bucket;
pub(crate) mod disk;
pub(crate) mod faulty;
pub(crate) mod garbage;
pub(crate) mod image;
pub(crate) mod object_lock;
pub(crate) mod paced;
pub(crate) mod proxy;
pub(crate) mod restore;
pub(crate) mod s3;
pub(crate) mod skip;
pub(crate) mod slow;
pub(crate) mod tape;
pub(crate) mod turns;
pub(crate) mod watched;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use holdfast_vault_engine::{
    Backup, BeginBackup, Begun, Consistency, DiskSpec, KeyFile, Point, PointStatus, Storage, Vault,
    VaultError,
};
use object_store::ObjectStore;
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) use agent::send_changes;
pub(crate) use image::Image;
pub(crate) use restore::{restore, restore_disk};

/// A vault's directory and key; goes with its files.
#[derive(Debug)]
pub(crate) struct TestVault {
    pub(crate) vault: Vault,
    pub(crate) key: KeyFile,
    pub(crate) key_path: PathBuf,
    pub(crate) path: PathBuf,
    _dir: TempDir,
}

impl TestVault {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault");
        std::fs::create_dir(&path).unwrap();
        Self::at(dir, path).await
    }

    pub(crate) async fn at(dir: TempDir, path: PathBuf) -> Self {
        let key_path = dir.path().join("vault.key");
        let key = KeyFile::generate(&key_path).unwrap();
        let vault = Vault::create(Storage::directory(&path).unwrap(), &key).await.unwrap();
        Self { vault, key, key_path, path, _dir: dir }
    }

    /// Opens it anew: nothing cached, as after a restart.
    pub(crate) async fn reopen(&self) -> Result<Vault, VaultError> {
        Vault::open(Storage::directory(&self.path)?, &self.key).await
    }

    /// Opens it through another store.
    pub(crate) async fn open_through(&self, store: Arc<dyn ObjectStore>) -> Vault {
        let storage = Storage::directory(&self.path).unwrap().through(|_| store);
        Vault::open(storage, &self.key).await.unwrap()
    }

    /// Every object's name, sorted.
    pub(crate) fn objects(&self) -> Vec<String> {
        let mut names = Vec::new();
        walk(&self.path, &mut |path| {
            names.push(path.strip_prefix(&self.path).unwrap().to_str().unwrap().to_owned());
        });
        names.sort();
        names
    }

    /// Bytes of all objects.
    pub(crate) fn size(&self) -> u64 {
        let mut sum = 0;
        walk(&self.path, &mut |path| sum += std::fs::metadata(path).unwrap().len());
        sum
    }
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, each) } else { each(&path) }
    }
}

/// A request for a backup of these disks by a new step.
pub(crate) fn request(machine: Uuid, disks: &[(&str, &Image)]) -> BeginBackup {
    BeginBackup {
        machine,
        machine_name: "web1".to_owned(),
        snapshot_id: Uuid::new_v4(),
        step_id: Uuid::new_v4(),
        attempt: 1,
        consistency: Consistency::Crash,
        taken_at: DateTime::<Utc>::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
        disks: disks
            .iter()
            .map(|(name, image)| DiskSpec { name: (*name).to_owned(), size_bytes: image.size_bytes() })
            .collect(),
        at_least_seq: 0,
        damaged: Vec::new(),
    }
}

pub(crate) async fn begin(vault: &Vault, request: BeginBackup) -> Result<Backup, VaultError> {
    match vault.begin(request).await? {
        Begun::Open(backup) => Ok(backup),
        Begun::AlreadyCommitted(point) => panic!("committed already: {point:?}"),
    }
}

/// A whole backup: begin, send what the map says is changed, commit.
pub(crate) async fn back_up(
    vault: &Vault,
    machine: Uuid,
    disks: &[(&str, &Image)],
) -> Result<Point, VaultError> {
    let backup = begin(vault, request(machine, disks)).await?;
    finish(&backup, disks).await
}

/// The rest of a backup that has begun.
pub(crate) async fn finish(backup: &Backup, disks: &[(&str, &Image)]) -> Result<Point, VaultError> {
    let mut read = Vec::new();
    for (name, image) in disks {
        send_changes(backup, name, image).await?;
        read.push(((*name).to_owned(), image.size_bytes()));
    }
    backup.prepare(&read).await?.commit().await
}

/// Whether the delta of a point's disk took the place of some of those that it was built upon.
pub(crate) fn is_merged(point: &Point, base: &Point) -> bool {
    let (stack, under) = (&point.disks[0].stack, &base.disks[0].stack);
    stack.first().is_some_and(|newest| newest.seq == point.seq) && stack.len() <= under.len()
}

/// The machine's points, all of which must be readable.
pub(crate) async fn good_points(vault: &Vault, machine: Uuid) -> Vec<Point> {
    let points = vault.points(machine).await.unwrap();
    let good = |status| match status {
        PointStatus::Ok(point) => point,
        PointStatus::SoftDeleted(point, _) => panic!("point {} is deleted", point.seq),
        PointStatus::Damaged { seq, error } => panic!("point {seq} is damaged: {error}"),
    };
    points.into_iter().map(good).collect()
}
