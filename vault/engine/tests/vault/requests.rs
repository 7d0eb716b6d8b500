//! What things cost in requests, each of which is some milliseconds and a fraction of a cent, and in bytes that are read.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use futures::TryStreamExt as _;
use holdfast_vault_engine::{
    Action, BLOCK_SIZE, BeginBackup, CollectOptions, Compaction, DiskSpec, Extent, KeyFile, Storage, Vault,
};
use object_store::memory::InMemory;
use uuid::Uuid;

use super::support::faulty::{Fault, Faulty};
use super::support::{Image, back_up, begin, finish, request, restore_disk};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_costs_many_requests() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
    let counted = Faulty::over(Arc::new(InMemory::new()), Fault::NoSpace, "", usize::MAX, 0);
    let storage = || Storage::over(Arc::clone(&counted) as _);
    Vault::create(storage(), &key).await.unwrap();
    let vault = Vault::open(storage(), &key).await.unwrap();
    let machine = Uuid::from_u128(1);
    let mut image = Image::noise(1, 4 * MIB);
    back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    let mut points = Vec::new();
    let mut incrementals = Vec::new();
    for seed in 0..50 {
        image.change(seed, 3);
        counted.requests();
        points.push(back_up(&vault, machine, &[("sda", &image)]).await.unwrap());
        incrementals.push(counted.requests());
    }
    let last = points.last().unwrap();
    let cold = Vault::open(storage(), &key).await.unwrap();
    counted.requests();
    restore_disk(&cold, last, "sda", &image).await;
    let restore = counted.requests();
    vault.decide_point(machine, points[0].seq, Action::Delete { window_seconds: 0 }, "eva").await.unwrap();
    counted.requests();
    let later = Utc::now() + TimeDelta::hours(1);
    let mut collections = Vec::new();
    // The machine's turn comes with the sixth; the last one looks where all blocks are.
    for compaction in [Compaction::Due, Compaction::All] {
        let options = CollectOptions { compaction, ..CollectOptions::new(later) };
        collect_garbage(&Vault::open(storage(), &key).await.unwrap(), options, |_| {}).await.unwrap();
        collections.push(counted.requests());
    }
    println!(
        "incrementals {incrementals:?}, restore {restore}, collections of {} points {collections:?}",
        points.len()
    );
    assert!(incrementals.iter().all(|requests| *requests <= 50), "{incrementals:?}");
    assert!(restore <= 10 + 2 * points.len(), "{restore}");
    assert!(collections[0] <= 10 * points.len() && collections[1] <= 15 * points.len(), "{collections:?}");
}

/// Where little of a disk is data, a page of a delta speaks of hundreds of windows.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_delta_is_read_once_however_many_windows_it_speaks_of() {
    const BLOCKS: u64 = 1 << 22;
    let counted = Faulty::over(Arc::new(InMemory::new()), Fault::NoSpace, "", usize::MAX, 0);
    let storage = Storage::over(Arc::clone(&counted) as _);
    let vault = Vault::create(storage, &KeyFile::new()).await.unwrap();
    let disk = DiskSpec { name: "sda".to_owned(), size_bytes: BLOCKS * BLOCK_SIZE as u64 };
    let sparse = BeginBackup { disks: vec![disk], ..request(Uuid::from_u128(1), &[]) };
    let backup = begin(&vault, sparse).await.unwrap();
    let zeros = vec![Extent { first_block: 0, block_count: BLOCKS }];
    backup.push("sda", Vec::new(), zeros).await.unwrap();
    let point = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
    counted.requests();
    let windows = vault.open_disk(&point, "sda").await.unwrap().windows();
    let windows: Vec<_> = windows.try_collect().await.unwrap();
    let requests = counted.requests();
    assert!(windows.len() > 50 && requests <= 10, "{requests} requests for {} windows", windows.len());
}

/// What was purged or given up is looked at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_more_costs_collections_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
    let counted = Faulty::over(Arc::new(InMemory::new()), Fault::NoSpace, "", usize::MAX, 0);
    let vault = Vault::create(Storage::over(Arc::clone(&counted) as _), &key).await.unwrap();
    let machine = Uuid::from_u128(1);
    let image = Image::noise(1, MIB);
    let cost = async || {
        for _ in 0..2 {
            counted.requests();
            let report = collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
            assert!(report.held.is_empty(), "{report:?}");
        }
        counted.requests()
    };
    let mut newest = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    let before = cost().await;
    for _ in 0..20 {
        let lost = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
        vault.conclude(machine, lost.seq(), "lost").await.unwrap();
        let full = BeginBackup { damaged: vec![newest.seq], ..request(machine, &[("sda", &image)]) };
        let next = finish(&begin(&vault, full).await.unwrap(), &[("sda", &image)]).await.unwrap();
        vault.decide_point(machine, newest.seq, Action::Delete { window_seconds: 0 }, "eva").await.unwrap();
        newest = next;
    }
    let after = cost().await;
    assert!(after <= before + 2, "{after} requests instead of {before}");
    assert_eq!(vault.points(machine).await.unwrap().len(), 1);
}

/// A machine whose last point alone is not deleted, so that much of its first segment is dead, in a storage that counts.
struct Counted {
    storage: Arc<Faulty>,
    key: KeyFile,
    machine: Uuid,
    image: Image,
}

impl Counted {
    async fn new() -> Self {
        let storage = Faulty::over(Arc::new(InMemory::new()), Fault::NoSpace, "", usize::MAX, 0);
        let key = KeyFile::new();
        let vault = Vault::create(Storage::over(Arc::clone(&storage) as _), &key).await.unwrap();
        let (machine, mut image) = (Uuid::from_u128(1), Image::noise(1, 4 * MIB));
        let mut points = Vec::new();
        for seed in 0..4 {
            points.push(back_up(&vault, machine, &[("sda", &image)]).await.unwrap());
            image.change(seed, 300);
        }
        for point in &points[..3] {
            let delete = Action::Delete { window_seconds: 0 };
            vault.decide_point(machine, point.seq, delete, "eva").await.unwrap();
        }
        Self { storage, key, machine, image }
    }

    async fn open(&self) -> Vault {
        Vault::open(Storage::over(Arc::clone(&self.storage) as _), &self.key).await.unwrap()
    }

    fn options(compaction: Compaction) -> CollectOptions {
        CollectOptions { compaction, ..CollectOptions::new(Utc::now() + TimeDelta::hours(1)) }
    }
}

/// Beside a backup through the same vault, which is none of its business.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_says_what_it_read() {
    let mut read = Vec::new();
    for compaction in [Compaction::Due, Compaction::All] {
        let counted = Counted::new().await;
        let vault = counted.open().await;
        let mut told = 0;
        counted.storage.read();
        let plan = vault
            .plan_collection(Counted::options(compaction), |so_far| {
                assert!(so_far.read_bytes >= told, "{so_far:?}");
                told = so_far.read_bytes;
            })
            .await
            .unwrap();
        assert!(plan.read_bytes >= told && (compaction == Compaction::Due || told > 0), "{told}");
        assert_eq!(plan.read_bytes, counted.storage.read(), "a plan of {compaction:?}");

        let cold = counted.open().await;
        counted.storage.read();
        let mut seen = 0;
        let mut run = cold.begin_collection(Counted::options(compaction)).await.unwrap();
        run.look(|_| {}).await.unwrap();
        seen += counted.storage.read();
        back_up(&cold, counted.machine, &[("sda", &counted.image)]).await.unwrap();
        assert!(counted.storage.read() > 0);
        let mut compacting = 0;
        run.compact(|so_far| compacting = so_far.read_bytes).await.unwrap();
        run.condemn().await.unwrap();
        run.look_again().await.unwrap();
        let report = run.sweep().await.unwrap();
        seen += counted.storage.read();
        assert_eq!(report.read_bytes, seen, "{compaction:?}: {report:?}");
        assert_eq!(compacting > 0, compaction == Compaction::All, "{report:?}");
        assert_eq!(report.compacted_segments > 0, compaction == Compaction::All, "{report:?}");
        read.push(report.read_bytes);
    }
    // What is left is read from the old segment, and once more from the new one.
    assert!(read[1] > read[0] + MIB as u64, "{read:?}");
}
