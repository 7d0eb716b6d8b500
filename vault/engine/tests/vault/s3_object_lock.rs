//! Locks that the server enforces: what a locked point needs outlives whoever has the bucket's key. Against a moto that is as strict as
//! Amazon, or the server that `HOLDFAST_TEST_S3_ENDPOINT` names.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, ClockTrust, CollectOptions, CollectionReport, Compaction, KeyFile, Keys, LockMode, Outcome,
    Point, Retention, S3, S3Limits, Samples, Storage, Unlock, Vault, VaultError,
};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::object_lock::{LockBucket, Locks};
use super::support::s3::{S3Vault, new_key};
use super::support::{Image, back_up, good_points, restore_disk};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;

/// Ends of locks, counted from now on, without parts of a second.
fn clock() -> impl Fn(i64) -> DateTime<Utc> {
    let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    move |hours| now + TimeDelta::hours(hours)
}

async fn lock(test: &S3Vault, point: &Point, mode: LockMode, until: DateTime<Utc>) {
    let action = Action::Lock { mode, until: until.timestamp_micros() };
    test.vault.decide_point(point.machine, point.seq, action, "eva").await.unwrap();
}

async fn enforce(vault: &Vault, point: &Point, clock: DateTime<Utc>) -> Option<Retention> {
    Some(vault.enforce_lock(point.machine, point.seq, clock).await.unwrap()?.retained)
}

async fn collect(vault: &Vault) -> CollectionReport {
    let options = CollectOptions {
        clock: ClockTrust::Trusted,
        compaction: Compaction::All,
        ..CollectOptions::new(Utc::now())
    };
    let report = collect_garbage(vault, options, |_| {}).await.unwrap();
    assert!(report.held.is_empty(), "{report:?}");
    report
}

/// Clones that borrow from each other, an incremental over what a collection wrote anew, a second key: whoever has the bucket's key deletes
/// what can be deleted and hides the rest.
#[tokio::test(flavor = "multi_thread")]
async fn s3_what_a_locked_point_needs_outlives_the_buckets_key() {
    let Some(server) = LockBucket::start().await else { return };
    let in_hours = clock();
    let bucket = &server.bucket;
    let test = S3Vault::new(server.place()).await;
    let vault = test.vault.deduplicating(Arc::new(Samples::within(1 << 20)));
    let mut image = Image::noise(1, 4 * MIB);
    let lender = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let machine = Uuid::new_v4();
    let mut history = Vec::new();
    for round in 0..4 {
        image.change(round, 300);
        history.push((back_up(&vault, machine, &[("sda", &image)]).await.unwrap(), image.clone()));
    }
    for (point, _) in history.iter().take(2) {
        vault.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap();
    }
    vault.decide_point(lender.machine, lender.seq, AT_ONCE, "eva").await.unwrap();
    assert!(collect(&vault).await.compacted_segments > 0);
    let (_second_dir, second) = new_key();
    let keys = Keys::unlock(Storage::s3(&test.place).unwrap(), Unlock::Key(&test.key)).await.unwrap();
    keys.add_identity("office safe", &second.public()).await.unwrap();

    let (locked, truth) = &history[2];
    let until = in_hours(1);
    let expected = Retention { mode: LockMode::Governance, until };
    assert_eq!(enforce(&vault, locked, Utc::now()).await, None, "it is not locked");
    lock(&test, locked, LockMode::Governance, until).await;
    assert_eq!(enforce(&vault, locked, Utc::now()).await, Some(expected));
    // The next one is another point, and what it alone needs is not retained.
    image.change(9, 100);
    back_up(&vault, machine, &[("sda", &image)]).await.unwrap();

    let prefix = test.name("").to_string();
    let before = bucket.versions(&prefix).await;
    let mut refused = 0;
    for version in &before {
        match bucket.delete_version(version).await {
            204 => {}
            403 => refused += 1,
            other => panic!("{version:?}: {other}"),
        }
    }
    assert!(refused > 5 && refused < before.len(), "{refused} of {}", before.len());
    let left = bucket.versions(&prefix).await;
    for version in &left {
        bucket.hide(&version.key).await;
    }
    let gone = Vault::open(Storage::s3(&test.place).unwrap(), &test.key).await.unwrap_err();
    assert!(matches!(gone, VaultError::NotAVault), "{gone:?}");

    // What an operator does then.
    bucket.remove_markers(&prefix).await;
    for key in [&test.key, &second] {
        let vault = open(&test.place, key).await;
        assert_eq!(vault.machines().await.unwrap(), [machine]);
        let point = vault.outcome(machine, locked.seq).await.unwrap();
        assert_eq!(point, Some(Outcome::Point(locked.clone())));
        restore_disk(&vault, locked, "sda", truth).await;
        assert_eq!(vault.standing(machine, locked.seq).await.unwrap().lock.unwrap().until, until);
    }
}

async fn open(place: &S3, key: &KeyFile) -> Vault {
    Vault::open(Storage::s3(place).unwrap(), key).await.unwrap()
}

/// It would gain nothing: the server keeps what was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn s3_collections_leave_what_is_retained() {
    let Some(server) = LockBucket::start().await else { return };
    let in_hours = clock();
    let bucket = &server.bucket;
    let test = S3Vault::new(server.place()).await;
    let mut worn = Vec::new();
    for machine in [Uuid::new_v4(), Uuid::new_v4()] {
        let mut image = Image::noise(1, 4 * MIB);
        let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        image.change(2, 600);
        let second = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        test.vault.decide_point(machine, first.seq, AT_ONCE, "eva").await.unwrap();
        worn.push((second, image));
    }
    let (locked, image) = &worn[0];
    lock(&test, locked, LockMode::Governance, in_hours(1)).await;
    enforce(&test.vault, locked, Utc::now()).await.unwrap();
    let segments = async |point: &Point| {
        let prefix = test.name(&format!("seg/{}", point.machine)).to_string();
        bucket.versions(&prefix).await
    };
    let before = segments(locked).await;
    let report = collect(&test.vault).await;
    assert_eq!(report.compacted_segments, 1, "that of the machine without a lock: {report:?}");
    assert_eq!(segments(locked).await, before);
    assert!(segments(&worn[1].0).await.iter().any(|version| version.is_marker));
    restore_disk(&test.reopen().await, locked, "sda", image).await;

    // The lock is taken back; the server still retains what it does, and no collection minds.
    test.vault.decide_point(locked.machine, locked.seq, Action::Unlock, "eva").await.unwrap();
    test.vault.decide_point(locked.machine, locked.seq, AT_ONCE, "eva").await.unwrap();
    let report = collect(&test.vault).await;
    assert!(report.deleted_segments > 0, "{report:?}");
    assert!(good_points(&test.reopen().await, locked.machine).await.is_empty());
    let after = segments(locked).await;
    assert!(before.iter().all(|version| after.contains(version)), "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_what_is_retained_is_only_ever_retained_for_longer() {
    let Some(server) = LockBucket::start().await else { return };
    let in_hours = clock();
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(1, MIB);
    let old = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    image.change(1, 10);
    let new = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let shared = test.name(&format!("seg/{machine}/{:020}/00000000.0", old.seq)).to_string();
    let own = test.name(&format!("points/{machine}/{:020}", new.seq)).to_string();
    let is = async |key: &str, mode: &str, until: DateTime<Utc>| {
        let (found, end) = server.retention(key).await.unwrap();
        assert_eq!(found, mode, "{key}");
        assert!(end.starts_with(&until.format("%Y-%m-%dT%H:%M:%S").to_string()), "{key}: {end} {until}");
    };
    lock(&test, &old, LockMode::Governance, in_hours(3)).await;
    enforce(&test.vault, &old, Utc::now()).await.unwrap();
    is(&shared, "GOVERNANCE", in_hours(3)).await;
    assert_eq!(server.retention(&own).await, None);

    lock(&test, &new, LockMode::Governance, in_hours(2)).await;
    let retained = enforce(&test.vault, &new, Utc::now()).await.unwrap();
    assert_eq!(retained, Retention { mode: LockMode::Governance, until: in_hours(2) });
    is(&shared, "GOVERNANCE", in_hours(3)).await;
    is(&own, "GOVERNANCE", in_hours(2)).await;

    lock(&test, &new, LockMode::Governance, in_hours(4)).await;
    enforce(&test.vault, &new, Utc::now()).await.unwrap();
    is(&shared, "GOVERNANCE", in_hours(4)).await;
    is(&own, "GOVERNANCE", in_hours(4)).await;

    // While it can be taken back, nothing is retained so that nobody can.
    lock(&test, &new, LockMode::Compliance, in_hours(100)).await;
    assert_eq!(enforce(&test.vault, &new, Utc::now()).await, None);
    is(&own, "GOVERNANCE", in_hours(4)).await;
    let final_at = Utc::now() + TimeDelta::hours(73);
    assert_eq!(enforce(&test.vault, &new, final_at).await.unwrap().mode, LockMode::Compliance);
    is(&shared, "COMPLIANCE", in_hours(100)).await;
    is(&own, "COMPLIANCE", in_hours(100)).await;

    // What is not more than that is not said in other words either.
    lock(&test, &old, LockMode::Governance, in_hours(101)).await;
    let retained = enforce(&test.vault, &old, Utc::now()).await.unwrap();
    assert_eq!(retained, Retention { mode: LockMode::Governance, until: in_hours(101) });
    is(&shared, "COMPLIANCE", in_hours(101)).await;
}

/// Amazon lets nobody make compliance of governance who may not bypass that: then it stays, for as long, and is not called more.
#[tokio::test(flavor = "multi_thread")]
async fn s3_governance_that_cannot_be_raised_is_not_called_compliance() {
    let Some(server) = LockBucket::of_moto(Locks::NoBypass).await else { return };
    let in_hours = clock();
    let test = S3Vault::new(server.place()).await;
    let image = Image::noise(1, MIB);
    let point = back_up(&test.vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    lock(&test, &point, LockMode::Governance, in_hours(2)).await;
    enforce(&test.vault, &point, Utc::now()).await.unwrap();
    lock(&test, &point, LockMode::Compliance, in_hours(100)).await;
    let retained = enforce(&test.vault, &point, Utc::now() + TimeDelta::hours(73)).await;
    assert_eq!(retained, Some(Retention { mode: LockMode::Governance, until: in_hours(100) }));
    let header = server.retention(test.name("vault.json").as_ref()).await.unwrap();
    assert_eq!(header.0, "GOVERNANCE");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_an_enforcement_that_is_interrupted_is_gone_on_with() {
    let Some(server) = LockBucket::start().await else { return };
    let in_hours = clock();
    let slow = S3Limits { requests_per_second: NonZeroU32::new(40), ..S3Limits::default() };
    let bucket = &server.bucket;
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(1, MIB);
    for round in 0..12 {
        image.change(round, 40);
        back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    }
    let point = good_points(&test.vault, machine).await.pop().unwrap();
    lock(&test, &point, LockMode::Governance, in_hours(1)).await;
    let vault = open(&S3 { limits: slow, ..test.place.clone() }, &test.key).await;
    let prefix = test.name("").to_string();
    let retained = async || {
        let mut keys = BTreeSet::new();
        let of_points = |key: &str| !key.contains("/probe/");
        for version in bucket.versions(&prefix).await.iter().filter(|version| of_points(&version.key)) {
            if server.retention(&version.key).await.is_some_and(|(mode, _)| mode == "GOVERNANCE") {
                keys.insert(version.key.clone());
            }
        }
        keys
    };
    let mut seen = Vec::new();
    for _ in 0..100 {
        let run = vault.enforce_lock(machine, point.seq, Utc::now());
        let done = tokio::time::timeout(Duration::from_millis(1200), run).await;
        seen.push(retained().await.len());
        if done.is_ok() {
            break;
        }
    }
    let all = *seen.last().unwrap();
    assert!(seen[0] < all, "it was not interrupted: {seen:?}");
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(enforce(&test.vault, &point, Utc::now()).await.unwrap().until, in_hours(1));
    assert_eq!(retained().await.len(), all, "something was left out");
}
