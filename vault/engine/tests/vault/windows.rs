//! How long what was deleted can be taken back, whatever clocks say and whoever decides meanwhile.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_vault_engine::{Action, ClockTrust, CollectOptions, LockMode, PointState, PurgedPoint, Refusal};
use uuid::Uuid;

use super::collect::{AT_ONCE, collect_at, refusal};
use super::support::faulty::{Fault, Faulty};
use super::support::{Image, TestVault, back_up, good_points, restore_disk};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_point_comes_back_within_its_window() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(10, 2 * MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let day = TimeDelta::days(1);
    let start = Utc::now();
    collect_at(&test.vault, start).await;
    let delete = Action::Delete { window_seconds: 14 * 86_400 };
    test.vault.decide_point(machine, point.seq, delete, "eva").await.unwrap();
    // The window begins when a collection sees the deletion.
    for days in 1..=14 {
        let report = collect_at(&test.vault, start + day * days).await;
        assert_eq!(report.purged, [], "after {days} days");
    }
    test.vault.decide_point(machine, point.seq, Action::Undelete, "eva").await.unwrap();
    assert_eq!(collect_at(&test.vault, start + day * 15).await.purged, []);
    restore_disk(&test.vault, &good_points(&test.vault, machine).await[0], "sda", &image).await;
    test.vault.decide_point(machine, point.seq, delete, "eva").await.unwrap();
    for days in 16..30 {
        assert_eq!(collect_at(&test.vault, start + day * days).await.purged, []);
    }
    let report = collect_at(&test.vault, start + day * 30).await;
    assert_eq!(report.purged.len(), 1);
    assert!(report.deleted_bytes > 0);
    assert!(test.vault.points(machine).await.unwrap().is_empty());
    assert!(!test.objects().iter().any(|name| name.starts_with("seg/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_leaps_ends_no_window() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(11, MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let delete = Action::Delete { window_seconds: 86_400 };
    test.vault.decide_point(machine, point.seq, delete, "eva").await.unwrap();
    let start = Utc::now();
    collect_at(&test.vault, start).await;
    let ahead = start + TimeDelta::days(365);
    for _ in 0..3 {
        let report = collect_at(&test.vault, ahead).await;
        assert_eq!(report.purged, []);
        assert!(report.clock_leap.is_some_and(|leap| leap > Duration::from_secs(300 * 86_400)));
    }
    let back = collect_at(&test.vault, start - TimeDelta::days(9)).await;
    assert_eq!((back.purged.len(), back.clock_leap), (0, None));
    restore_disk(&test.vault, &point, "sda", &image).await;
    let trusted = CollectOptions { clock: ClockTrust::Trusted, ..CollectOptions::new(ahead) };
    assert_eq!(collect_garbage(&test.vault, trusted, |_| {}).await.unwrap().purged.len(), 1);
}

/// Whoever began to store a decision may have been killed, and it is stored weeks later.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_does_not_begin_before_the_decision_is_stored() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(28, MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let (start, day) = (Utc::now(), TimeDelta::days(1));
    let delete = Action::Delete { window_seconds: 14 * 86_400 };
    test.vault.decide_point(machine, point.seq, delete, "eva").await.unwrap();
    let event = test.path.join(format!("points/{machine}/{:020}.{:08}", point.seq, 1));
    let away = test.path.join("../event");
    std::fs::rename(&event, &away).unwrap();
    for days in 1..34 {
        if days == 20 {
            std::fs::rename(&away, &event).unwrap();
            std::fs::File::open(&event).unwrap().set_modified((start + day * 20).into()).unwrap();
        }
        assert_eq!(collect_at(&test.vault, start + day * days).await.purged, [], "after {days} days");
    }
    assert_eq!(collect_at(&test.vault, start + day * 34).await.purged.len(), 1);
}

/// Deleted while the vault's time stood still: what an operator's word makes up for does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_does_not_begin_before_the_deletion() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(27, MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let (now, day) = (Utc::now(), TimeDelta::days(1));
    collect_at(&test.vault, now - day * 60).await;
    test.vault
        .decide_point(machine, point.seq, Action::Delete { window_seconds: 14 * 86_400 }, "eva")
        .await
        .unwrap();
    assert!(collect_at(&test.vault, now).await.clock_leap.is_some());
    let trusted = CollectOptions { clock: ClockTrust::Trusted, ..CollectOptions::new(now) };
    assert_eq!(collect_garbage(&test.vault, trusted, |_| {}).await.unwrap().purged, []);
    for days in 1..14 {
        assert_eq!(collect_at(&test.vault, now + day * days).await.purged, [], "after {days} days");
    }
    restore_disk(&test.vault, &point, "sda", &image).await;
    assert_eq!(collect_at(&test.vault, now + day * 15).await.purged.len(), 1);
}

/// Somebody wants it back, or deletes it once more, while a collection is about to purge it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_before_a_purge_counts() {
    for is_deleted_again in [false, true] {
        let test = TestVault::new().await;
        let machine = Uuid::new_v4();
        let images = [Image::noise(28, MIB), Image::noise(29, MIB)];
        let mut points = Vec::new();
        for image in &images {
            points.push(back_up(&test.vault, machine, &[("sda", image)]).await.unwrap());
        }
        test.vault.decide_point(machine, points[0].seq, AT_ONCE, "eva").await.unwrap();
        let slow = Faulty::new(&test.path, Fault::Slow(Duration::from_secs(2)), "points/", 0, 1);
        let vault = test.open_through(slow.clone()).await;
        let collection =
            tokio::spawn(
                async move { collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await },
            );
        slow.struck().await;
        let decide = |action| test.vault.decide_point(machine, points[0].seq, action, "eva");
        decide(Action::Undelete).await.unwrap();
        if is_deleted_again {
            decide(Action::Delete { window_seconds: 14 * 86_400 }).await.unwrap();
        }
        let report = collection.await.unwrap().unwrap();
        assert_eq!((report.purged.len(), report.condemned_segments), (0, 0), "{report:?}");
        let standing = test.vault.standing(machine, points[0].seq).await.unwrap();
        assert_eq!(standing.state == PointState::Listed, !is_deleted_again, "{standing:?}");
        for (point, image) in points.iter().zip(&images) {
            restore_disk(&test.reopen().await.unwrap(), point, "sda", image).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_point_is_not_deleted() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let point = back_up(&test.vault, machine, &[("sda", &Image::mixed(12, MIB))]).await.unwrap();
    let until = Utc::now() + TimeDelta::days(30);
    let lock = |mode, until: DateTime<Utc>| Action::Lock { mode, until: until.timestamp_micros() };
    let locked = lock(LockMode::Compliance, until);
    let standing = test.vault.decide_point(machine, point.seq, locked, "eva").await.unwrap();
    assert_eq!(standing.lock.unwrap().mode, LockMode::Compliance);
    let until = standing.lock.unwrap().until;
    let deleted = test.vault.decide_point(machine, point.seq, AT_ONCE, "eva").await;
    assert_eq!(refusal(deleted), Refusal::Locked { until });
    let shorter = lock(LockMode::Compliance, until - TimeDelta::days(1));
    let shortened = test.vault.decide_point(machine, point.seq, shorter, "eva").await;
    assert_eq!(refusal(shortened), Refusal::Shortened { until });
    // Whoever sets the collector's clock ahead does not open it either.
    let trusted =
        CollectOptions { clock: ClockTrust::Trusted, ..CollectOptions::new(until + TimeDelta::days(9)) };
    collect_garbage(&test.vault, trusted, |_| {}).await.unwrap();
    let deleted = test.vault.decide_point(machine, point.seq, AT_ONCE, "eva").await;
    assert_eq!(refusal(deleted), Refusal::Locked { until });
    assert_eq!(
        test.reopen().await.unwrap().standing(machine, point.seq).await.unwrap().lock.unwrap().until,
        until
    );
}

/// What tells when a window began does not read: it counts from the next collection that does, and nobody else waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_collection_only_delays() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let point = back_up(&test.vault, machine, &[("sda", &Image::noise(30, MIB))]).await.unwrap();
    let (start, hour) = (Utc::now(), TimeDelta::hours(1));
    collect_at(&test.vault, start).await;
    let delete = Action::Delete { window_seconds: 24 * 3600 };
    test.vault.decide_point(machine, point.seq, delete, "eva").await.unwrap();
    collect_at(&test.vault, start + hour).await;
    collect_at(&test.vault, start + hour * 10).await;
    let path = test.path.join(format!("gc/{:020}", 2));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[150] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let other = Uuid::new_v4();
    let gone = back_up(&test.vault, other, &[("sda", &Image::noise(31, MIB))]).await.unwrap();
    test.vault.decide_point(other, gone.seq, AT_ONCE, "eva").await.unwrap();
    let report = collect_at(&test.vault, start + hour * 33).await;
    assert!(report.held.is_empty() && report.deleted_segments > 0, "{report:?}");
    assert_eq!(report.purged, [PurgedPoint { machine: other, seq: gone.seq }]);
    let report = collect_at(&test.vault, start + hour * 35).await;
    assert_eq!(report.purged, [PurgedPoint { machine, seq: point.seq }]);
}

/// Between a look at a point and the decision about it another one decides: what was to be decided is judged anew.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_second_is_judged_by_what_came_first() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(12, MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let until = Utc::now() + TimeDelta::hours(1);
    let lock = Action::Lock { mode: LockMode::Governance, until: until.timestamp_micros() };
    test.vault.decide_point(machine, point.seq, lock, "eva").await.unwrap();
    let event = test.path.join(format!("points/{machine}/{:020}.{:08}", point.seq, 1));
    let decided = std::fs::read(&event).unwrap();
    std::fs::remove_file(&event).unwrap();

    let faulty = Faulty::new(&test.path, Fault::Stopped, "points/", usize::MAX, 0);
    let vault = test.open_through(faulty.clone()).await;
    faulty.after_list(move || std::fs::write(event, decided).unwrap());
    let delete = Action::Delete { window_seconds: 60 };
    let refused = refusal(vault.decide_point(machine, point.seq, delete, "bob").await);
    assert!(matches!(refused, Refusal::Locked { .. }), "{refused:?}");
    assert_eq!(good_points(&test.vault, machine).await.len(), 1);
}

/// That is how it is quarantined.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_point_can_be_deleted() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(13, MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let object = test.path.join(format!("points/{machine}/{:020}", point.seq));
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let vault = test.reopen().await.unwrap();
    let delete = Action::Delete { window_seconds: 0 };
    let standing = vault.decide_point(machine, point.seq, delete, "eva").await.unwrap();
    assert!(matches!(standing.state, PointState::SoftDeleted(_)), "{standing:?}");
}
