//! What things cost in requests: each is some milliseconds and a fraction of a cent.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{Action, BeginBackup, CollectOptions, Compaction, KeyFile, Storage, Vault};
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
