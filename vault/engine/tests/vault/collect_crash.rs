//! A collector that is killed before any of its changes: what is needed stays, and the next one finishes.

use chrono::Utc;
use holdfast_vault_engine::{CollectOptions, VaultError};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::faulty::{Fault, Faulty};
use super::support::{Image, TestVault, back_up, good_points, restore_disk};
use crate::support::garbage::collect_garbage;

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_killed_anywhere_is_finished() {
    let mut changes = 0;
    loop {
        let test = TestVault::new().await;
        let machine = Uuid::new_v4();
        let mut images = Vec::new();
        let mut points = Vec::new();
        for seed in 0..4 {
            let image = Image::noise(seed, 64 * 4096);
            points.push(back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap());
            images.push(image);
        }
        for point in [&points[0], &points[2]] {
            test.vault.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap();
        }
        let faulty = Faulty::new(&test.path, Fault::Stopped, "", changes, usize::MAX);
        let vault = test.open_through(faulty).await;
        let killed = collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await;

        let vault = test.reopen().await.unwrap();
        for index in [1, 3] {
            restore_disk(&vault, &points[index], "sda", &images[index]).await;
        }
        // Also one that begins in between.
        let mut image = images[3].clone();
        image.change(9, 5);
        let newest = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
        let report = collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
        assert!(report.waiting_for.is_empty() && report.held.is_empty(), "{report:?}");
        for index in [1, 3] {
            restore_disk(&vault, &points[index], "sda", &images[index]).await;
        }
        restore_disk(&vault, &newest, "sda", &image).await;
        assert_eq!(good_points(&vault, machine).await.len(), 3);
        let gone = format!("seg/{machine}/{:020}/", points[0].seq);
        assert!(!test.objects().iter().any(|name| name.starts_with(&gone)), "after {changes} changes");
        assert!(!test.objects().iter().any(|name| name.ends_with(".set")), "after {changes} changes");
        match killed {
            Ok(_) => break,
            Err(VaultError::Storage { .. }) => changes += 1,
            Err(error) => panic!("after {changes} changes: {error:?}"),
        }
    }
    assert!(changes > 5, "it was killed {changes} times only");
}
