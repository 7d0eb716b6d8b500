//! The main flows over the wire of S3: of moto, or of the server that `HOLDFAST_TEST_S3_ENDPOINT` names.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use futures::StreamExt as _;
use holdfast_vault_engine::{
    Action, CollectOptions, Outcome, Problem, S3, S3Limits, Storage, Vault, VaultError, VerifyDepth,
    VerifyPace, VerifyScope,
};
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use uuid::Uuid;

use super::support::agent::changed_blocks;
use super::support::proxy::Proxy;
use super::support::s3::{S3Vault, Server, ceph, new_key};
use super::support::{
    Image, back_up, begin, finish, good_points, request, restore, restore_disk, send_changes,
};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn s3_every_point_comes_back() {
    let Some(server) = Server::start() else { return };
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(1, 40 * MIB + 1234);
    let mut history = vec![image.clone()];
    for (seed, size) in [(2, 40 * MIB + 1234), (3, 41 * MIB), (4, 3 * MIB + 7), (5, 5 * MIB)] {
        image.resize(size);
        image.change(seed, 30);
        history.push(image.clone());
    }
    for truth in &history {
        back_up(&test.vault, machine, &[("sda", truth)]).await.unwrap();
    }
    let unchanged = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    assert_eq!(unchanged.disks[0].sent_bytes, 0);
    history.push(image);
    let vault = test.reopen().await;
    vault.check_present().await.unwrap();
    let points = good_points(&vault, machine).await;
    assert_eq!(points.len(), history.len());
    for (point, truth) in points.iter().zip(&history) {
        restore_disk(&vault, point, "sda", truth).await;
    }
    assert_eq!(vault.machines().await.unwrap(), [machine]);
    assert_eq!(vault.sweep_staging(Duration::ZERO).await.unwrap(), 0);
    let again = Vault::create(Storage::s3(&test.place).unwrap(), &test.key).await.unwrap_err();
    assert!(matches!(again, VaultError::AlreadyExists), "{again:?}");
    let (_dir, other) = new_key();
    let wrong = Vault::open(Storage::s3(&test.place).unwrap(), &other).await.unwrap_err();
    assert!(matches!(wrong, VaultError::WrongKey { .. }), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_what_was_durable_is_taken_over_by_another_gateway() {
    let Some(server) = Server::start() else { return };
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(10, 4 * MIB);
    back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    image.change(11, 200);
    let mut wanted = request(machine, &[("sda", &image)]);
    let interrupted = begin(&test.vault, wanted.clone()).await.unwrap();
    send_changes(&interrupted, "sda", &image).await.unwrap();
    interrupted.flush().await.unwrap();
    drop(interrupted);
    let vault = test.reopen().await;
    wanted.attempt = 2;
    let resumed = begin(&vault, wanted).await.unwrap();
    assert!(changed_blocks(&resumed, "sda", &image).await.unwrap().is_empty(), "something is sent again");
    let point = finish(&resumed, &[("sda", &image)]).await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
}

/// Many gateways want the next number of one machine, and an abort its name in `points/`: each name has one winner.
#[tokio::test(flavor = "multi_thread")]
async fn s3_each_name_has_one_winner() {
    let Some(server) = Server::start() else { return };
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let image = Image::noise(20, MIB);
    let mut gateways = Vec::new();
    for _ in 0..4 {
        gateways.push(test.reopen().await);
    }
    let begun = futures::future::join_all(
        gateways.iter().map(|vault| begin(vault, request(machine, &[("sda", &image)]))),
    )
    .await;
    let seqs: Vec<u64> = begun.iter().flatten().map(holdfast_vault_engine::Backup::seq).collect();
    assert_eq!(seqs.iter().collect::<BTreeSet<_>>().len(), seqs.len(), "one number for two: {seqs:?}");
    drop(begun);
    for round in 0..5 {
        let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
        send_changes(&backup, "sda", &image).await.unwrap();
        let prepared = backup.prepare(&[("sda".to_owned(), image.size_bytes())]).await.unwrap();
        let (seq, aborting) = (backup.seq(), &gateways[round % gateways.len()]);
        let (committed, concluded) =
            tokio::join!(prepared.commit(), aborting.conclude(machine, seq, "it seems dead"));
        match (committed, concluded.unwrap()) {
            (Ok(point), Outcome::Point(found)) => assert_eq!(point.hash, found.hash),
            (Err(VaultError::Aborted { .. }), Outcome::Aborted { .. }) => {}
            other => panic!("both or neither: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_damage_is_found_and_the_next_backup_is_whole() {
    let Some(server) = Server::start() else { return };
    let bucket = server.bucket();
    for cut in [false, true] {
        let test = S3Vault::new(server.place()).await;
        let machine = Uuid::new_v4();
        let mut image = Image::noise(30, 2 * MIB);
        let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        let prefix = test.name(&format!("seg/{machine}"));
        let segment = bucket.list(Some(&prefix)).next().await.unwrap().unwrap();
        let bytes = bucket.get(&segment.location).await.unwrap().bytes().await.unwrap();
        let mut damaged = bytes.to_vec();
        if cut {
            damaged.truncate(bytes.len() / 2);
        } else {
            let at = bytes.len() - 100;
            damaged[at] ^= 1;
        }
        bucket.put(&segment.location, damaged.into()).await.unwrap();
        let vault = test.reopen().await;
        let error = restore(&vault, &point, "sda").await.unwrap_err();
        assert!(error.is_damage(), "{error:?}");
        image.change(31, 10);
        let healed = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
        restore_disk(&vault, &healed, "sda", &image).await;
        bucket.delete(&segment.location).await.unwrap();
        let error = restore(&test.reopen().await, &point, "sda").await.unwrap_err();
        assert!(error.is_damage(), "{error:?}");
    }
}

/// A server answers the end of what is empty as if it failed: that is damage all the same, and holds what damage holds, nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn s3_a_segment_that_was_emptied_is_damaged() {
    let Some(server) = Server::start() else { return };
    let bucket = server.bucket();
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(50, 2 * MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let interrupted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    image.change(51, 10);
    send_changes(&interrupted, "sda", &image).await.unwrap();
    interrupted.flush().await.unwrap();
    let empty = async |seq: u64| {
        let prefix = test.name(&format!("seg/{machine}/{seq:020}"));
        let segments: Vec<_> = bucket.list(Some(&prefix)).collect().await;
        assert!(!segments.is_empty());
        for segment in segments {
            bucket.put(&segment.unwrap().location, Vec::<u8>::new().into()).await.unwrap();
        }
    };

    empty(interrupted.seq()).await;
    let vault = test.reopen().await;
    let resumed = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(!changed_blocks(&resumed, "sda", &image).await.unwrap().is_empty(), "it was taken over");

    empty(point.seq).await;
    let vault = test.reopen().await;
    let error = restore(&vault, &point, "sda").await.unwrap_err();
    assert!(error.is_damage(), "{error:?}");
    let report = vault.verify(VerifyScope::Vault, VerifyDepth::Structure, VerifyPace::Full, |_| {}).await;
    assert!(report.unwrap().damaged.contains_key(&machine));
    let report = collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
    assert_eq!(report.held.len(), 1, "{report:?}");
    let healed = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&vault, &healed, "sda", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_what_is_deleted_is_collected() {
    let Some(server) = Server::start() else { return };
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let (old, new) = (Image::noise(40, 4 * MIB), Image::noise(41, 4 * MIB));
    let first = back_up(&test.vault, machine, &[("sda", &old)]).await.unwrap();
    let second = back_up(&test.vault, machine, &[("sda", &new)]).await.unwrap();
    let action = Action::Delete { window_seconds: 0 };
    test.vault.decide_point(machine, first.seq, action, "eva").await.unwrap();
    let now = Utc::now() + TimeDelta::hours(1);
    collect_garbage(&test.vault, CollectOptions::new(now), |_| {}).await.unwrap();
    let vault = test.reopen().await;
    let bucket = server.bucket();
    let prefix = test.name(&format!("seg/{machine}/{:020}", first.seq));
    assert_eq!(bucket.list(Some(&prefix)).count().await, 0, "the deleted point's segments are there");
    assert_eq!(good_points(&vault, machine).await, std::slice::from_ref(&second));
    restore_disk(&vault, &second, "sda", &new).await;
}

/// More than a page of names; and names of a neighbour whose prefix begins with ours are not ours.
#[tokio::test(flavor = "multi_thread")]
async fn s3_listings_are_whole_and_nobody_elses() {
    let Some(server) = Server::start() else { return };
    let place = server.place();
    let test = S3Vault::new(place.clone()).await;
    let neighbour = S3Vault::new(server.at(&format!("{}-2", place.location))).await;
    let inside = S3Vault::new(server.at(&format!("{}/inside", server.place().location))).await;
    let machine = Uuid::new_v4();
    let bucket = server.bucket();
    let puts = (1..=1_100_u64).map(|seq| {
        let name = neighbour.name(&format!("points/{machine}/{seq:020}"));
        let bucket = &bucket;
        async move { bucket.put(&name, "x".into()).await }
    });
    let failed = futures::stream::iter(puts)
        .buffer_unordered(8)
        .filter(|put| std::future::ready(put.is_err()))
        .count()
        .await;
    assert_eq!(failed, 0);
    let seqs = neighbour.vault.point_seqs(machine).await.unwrap();
    assert_eq!(seqs, (1..=1_100).collect::<Vec<u64>>());
    assert_eq!(neighbour.vault.machines().await.unwrap(), [machine]);
    assert!(test.vault.point_seqs(machine).await.unwrap().is_empty());
    assert!(test.vault.machines().await.unwrap().is_empty());
    assert!(inside.vault.machines().await.unwrap().is_empty());
}

/// Whoever counts them in between finds no more than may be.
#[tokio::test(flavor = "multi_thread")]
async fn s3_no_limit_is_exceeded() {
    let Some(mut server) = Server::start() else { return };
    let proxy = Proxy::before(&mut server, Duration::from_millis(20)).await;
    let image = Image::noise(51, MIB);
    let machine = Uuid::new_v4();
    let look = async |limits: S3Limits| {
        let test = S3Vault::new(S3 { limits, ..server.place() }).await;
        back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        drop(proxy.begun());
        let looks = (0..100).map(|_| test.vault.point_seqs(machine));
        futures::future::try_join_all(looks).await.unwrap();
        proxy.begun()
    };
    let three = NonZeroU32::new(3).unwrap();
    look(S3Limits { requests_in_flight: three, ..S3Limits::default() }).await;
    assert_eq!(proxy.most_in_flight(), 3);
    let slow = S3Limits { requests_per_second: NonZeroU32::new(25), ..S3Limits::default() };
    let begun = look(slow).await;
    // A pause saves up one second's worth.
    let taken = *begun.last().unwrap() - begun[0];
    assert!(taken > Duration::from_millis(2800), "{} requests in {taken:?}", begun.len());
    look(S3Limits::default()).await;
    assert!(proxy.most_in_flight() > 3, "nothing was in the way of more");
}

/// One request at a time, and slowly: nothing waits for itself. What goes last is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn s3_the_limits_are_kept_and_nothing_waits_for_itself() {
    let Some(server) = Server::start() else { return };
    let slow = S3Limits {
        requests_in_flight: NonZeroU32::MIN,
        requests_per_second: NonZeroU32::new(200),
        bytes_per_second: NonZeroU64::new(MIB as u64),
        ..S3Limits::default()
    };
    let test = S3Vault::new(S3 { limits: slow, ..server.place() }).await;
    let machine = Uuid::new_v4();
    let image = Image::noise(50, 3 * MIB);
    let started = Instant::now();
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
    assert!(started.elapsed() > Duration::from_millis(2500), "6 MiB in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(60), "6 MiB in {:?}", started.elapsed());
}

/// What waits for the bandwidth does not use up the time of its request.
#[tokio::test(flavor = "multi_thread")]
async fn s3_reads_wait_for_the_bandwidth_as_long_as_it_takes() {
    let Some(server) = Server::start() else { return };
    let test = S3Vault::new(server.place()).await;
    let image = Image::noise(52, 24 * MIB);
    let point = back_up(&test.vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let slow = S3Limits {
        bytes_per_second: NonZeroU64::new(4 * MIB as u64),
        request_timeout: Duration::from_secs(2),
        retry_for: Duration::from_secs(4),
        ..S3Limits::default()
    };
    let vault = Vault::open(Storage::s3(&S3 { limits: slow, ..test.place.clone() }).unwrap(), &test.key);
    let vault = vault.await.unwrap();
    let started = Instant::now();
    restore_disk(&vault, &point, "sda", &image).await;
    // The last 4 MiB are not waited for, and a second's worth was saved up.
    let taken = started.elapsed();
    assert!(taken > Duration::from_millis(3900) && taken < Duration::from_secs(9), "24 MiB in {taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_what_is_wrong_is_said() {
    let Some(server) = Server::start() else { return };
    let (_dir, key) = new_key();
    let limits = S3Limits { retry_for: Duration::from_secs(1), ..S3Limits::default() };
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with_tls = server.endpoint.replace("http://", "https://");
    let cases = [
        (S3 { endpoint: Some(with_tls), ..server.place() }, Problem::NoTls),
        (S3 { endpoint: Some(format!("http://{nowhere}")), ..server.place() }, Problem::Unreachable),
        (S3 { endpoint: Some("http://nobody.invalid".to_owned()), ..server.place() }, Problem::Unreachable),
        (server.at("s3://no-such-bucket-of-holdfast/x"), Problem::NoBucket),
    ];
    for (place, expected) in cases {
        let storage = Storage::s3(&S3 { limits, ..place }).unwrap();
        for error in [
            Vault::open(storage.clone(), &key).await.unwrap_err(),
            Vault::create(storage, &key).await.unwrap_err(),
        ] {
            assert!(
                matches!(error, VaultError::Unusable { problem, .. } if problem == expected),
                "{error:?}"
            );
        }
    }
    // Moto asks nobody for a key.
    if ceph().is_some() {
        for (id, secret, expected) in [
            ("nobody", "test", Problem::UnknownAccessKey),
            (server.access_key_id.as_str(), "wrong", Problem::WrongSecret),
        ] {
            let storage =
                Storage::s3(&S3 { credentials: server.credentials(id, secret), ..server.place() }).unwrap();
            let error = Vault::open(storage, &key).await.unwrap_err();
            assert!(
                matches!(error, VaultError::Unusable { problem, .. } if problem == expected),
                "{error:?}"
            );
        }
    }
    let empty = Vault::open(Storage::s3(&server.place()).unwrap(), &key).await.unwrap_err();
    assert!(matches!(empty, VaultError::NotAVault), "{empty:?}");
}
