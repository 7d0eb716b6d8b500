//! Locks that a real server enforces. Ceph lets a name be taken twice as soon as a bucket keeps versions, so names are in the database here.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, Arbiter, KeyFile, LockMode, Outcome, Point, Retention, S3, Storage, Vault, chain,
};
use http::Method;
use uuid::Uuid;

use super::arbiter::Names;
use super::support::bucket::{Bucket, OBJECT_LOCK, Version};
use super::support::object_lock::LockBucket;
use super::support::s3::{Server, ceph, new_key};
use super::support::{Image, back_up, restore_disk};

const BYPASS: (&str, &str) = ("x-amz-bypass-governance-retention", "true");

#[tokio::test(flavor = "multi_thread")]
async fn s3_ceph_retains_what_a_locked_point_needs() {
    if ceph().is_none() {
        // Also with `CI` set: only `tests/run s3` starts one.
        eprintln!("SKIPPED: no Ceph (tests/run s3 starts one)");
        return;
    }
    let server = LockBucket::on(Server::start().unwrap(), &[OBJECT_LOCK]).await;
    let (bucket, place) = (&server.bucket, server.place());
    let location = place.location.to_string();
    let prefix = location.trim_start_matches("s3://").split_once('/').unwrap().1;
    let below = async |folder: &str| bucket.versions(&format!("{prefix}/{folder}")).await;
    let (_dir, key) = new_key();
    let made = Vault::create_arbitrated(Storage::s3(&place).unwrap(), &key).await;
    drop(
        made.unwrap_or_else(|error| panic!("no vault is made with names in the database: {}", chain(&error))),
    );

    // Of what the server was tried with, those are left that it retains.
    let probes = below("probe/").await;
    assert!(probes.len() >= 2, "one of each mode: {probes:?}");
    for probe in &probes {
        assert!(!probe.is_marker, "{probes:?}");
        assert_refused(bucket, probe, &[]).await;
    }

    let vault = open(&place, &key).await;
    let machine = Uuid::new_v4();
    let mut history = Vec::new();
    let mut image = Image::noise(1, 4 << 20);
    for round in 0..3 {
        image.change(round, 300);
        history.push((back_up(&vault, machine, &[("sda", &image)]).await.unwrap(), image.clone()));
    }
    let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    let (governed, complied) = (&history[0], &history[1]);
    let until = now + TimeDelta::hours(1);
    lock(&vault, &governed.0, LockMode::Governance, until).await;
    let retained = enforce(&vault, &governed.0, Utc::now()).await;
    assert_eq!(retained, Some(Retention { mode: LockMode::Governance, until }));

    // Nobody can take it back any more.
    let until = now + TimeDelta::hours(100);
    lock(&vault, &complied.0, LockMode::Compliance, until).await;
    let retained = enforce(&vault, &complied.0, Utc::now() + TimeDelta::hours(73)).await.unwrap();
    println!("compliance: all that the point needs is under {retained:?}");
    assert_eq!(retained.until, until);
    let own = below(&format!("points/{machine}/{:020}", complied.0.seq)).await;
    let own = own.iter().find(|version| version.key.ends_with(&format!("{:020}", complied.0.seq))).unwrap();
    let told = server.retention(&own.key).await;
    assert!(told.as_ref().is_some_and(|(mode, _)| mode == "COMPLIANCE"), "{}: {told:?}", own.key);
    assert_refused(bucket, own, &[BYPASS]).await;

    for (point, _) in [governed, complied] {
        let segments = below(&format!("seg/{machine}/{:020}/", point.seq)).await;
        assert!(!segments.is_empty(), "point {} has no segments", point.seq);
        for segment in &segments {
            assert_refused(bucket, segment, &[]).await;
        }
    }

    // Whoever has the key deletes what can be deleted, and hides the rest.
    let before = below("").await;
    let mut refused = 0;
    for version in &before {
        match delete(bucket, version, &[]).await {
            (204, _) => {}
            (403, _) => refused += 1,
            other => panic!("{version:?}: neither deleted nor refused: {other:?}"),
        }
    }
    assert!(refused > 5 && refused < before.len(), "{refused} of {} were refused", before.len());
    for version in below("").await {
        bucket.hide(&version.key).await;
    }
    bucket.remove_markers(&format!("{prefix}/")).await;
    let vault = open(&place, &key).await;
    for (point, truth) in [governed, complied] {
        assert_eq!(vault.outcome(machine, point.seq).await.unwrap(), Some(Outcome::Point(point.clone())));
        restore_disk(&vault, point, "sda", truth).await;
    }
}

async fn open(place: &S3, key: &KeyFile) -> Vault {
    let names: Arc<dyn Arbiter> = Arc::new(Names::default());
    let opened = Vault::open(Storage::s3(place).unwrap().with_arbiter(names), key).await;
    opened.unwrap_or_else(|error| panic!("the vault is not opened: {}", chain(&error)))
}

async fn lock(vault: &Vault, point: &Point, mode: LockMode, until: DateTime<Utc>) {
    let action = Action::Lock { mode, until: until.timestamp_micros() };
    vault.decide_point(point.machine, point.seq, action, "eva").await.unwrap();
}

async fn enforce(vault: &Vault, point: &Point, clock: DateTime<Utc>) -> Option<Retention> {
    let enforced = vault.enforce_lock(point.machine, point.seq, clock).await;
    let enforced = enforced.unwrap_or_else(|error| panic!("point {}: {}", point.seq, chain(&error)));
    Some(enforced?.retained)
}

/// Status of the answer, and what it says.
async fn delete(
    bucket: &Bucket,
    version: &Version,
    headers: &[(&'static str, &'static str)],
) -> (u16, String) {
    bucket.request(Method::DELETE, &version.key, &[("versionId", &version.id)], headers, "").await
}

async fn assert_refused(bucket: &Bucket, version: &Version, headers: &[(&'static str, &'static str)]) {
    let (status, said) = delete(bucket, version, headers).await;
    assert_eq!(
        status, 403,
        "{version:?} is under retention, its deletion with {headers:?} was answered: {said}"
    );
}
