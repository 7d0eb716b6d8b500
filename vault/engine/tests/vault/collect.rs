//! Deleting points and collecting what they leave: what is needed stays, what is not goes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, BeginBackup, ClockTrust, CollectOptions, CollectionReport, LockMode, PointState, PointStatus,
    PurgedPoint, Refusal, Vault, VaultError,
};
use uuid::Uuid;

use super::support::agent::read_map;
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore_disk, send_changes,
};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;
pub(crate) const AT_ONCE: Action = Action::Delete { window_seconds: 0 };

pub(crate) async fn collect_at(vault: &Vault, now: DateTime<Utc>) -> CollectionReport {
    collect_garbage(vault, CollectOptions::new(now), |_| {}).await.unwrap()
}

/// A backup that sends everything and is given up.
async fn leave_over(vault: &Vault, machine: Uuid, image: &Image) {
    let lost = begin(vault, request(machine, &[("sda", image)])).await.unwrap();
    send_changes(&lost, "sda", image).await.unwrap();
    lost.flush().await.unwrap();
    vault.conclude(machine, lost.seq(), "lost").await.unwrap();
}

/// Keeps nothing of backups without a point.
fn impatient() -> CollectOptions {
    CollectOptions { keep_leftovers: Duration::ZERO, ..CollectOptions::new(Utc::now() + TimeDelta::hours(1)) }
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, VaultError>) -> Refusal {
    match result {
        Err(VaultError::Refused { source, .. }) => source,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_deleted_point_needs_goes() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut images = vec![Image::noise(1, 8 * MIB)];
    let mut points = vec![back_up(&test.vault, machine, &[("sda", &images[0])]).await.unwrap()];
    for seed in 2..5 {
        // Whole and again: the one before shares nothing with the next but its first MiB.
        let mut image = Image::noise(seed, 8 * MIB);
        image.0[..MIB].copy_from_slice(&images[0].0[..MIB]);
        points.push(back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap());
        images.push(image);
    }
    let before = test.size();
    let nothing = collect_at(&test.vault, Utc::now()).await;
    assert_eq!((nothing.condemned_bytes, nothing.deleted_bytes), (0, 0));
    test.vault.decide_point(machine, points[1].seq, AT_ONCE, "eva").await.unwrap();
    let statuses = test.vault.points(machine).await.unwrap();
    assert!(matches!(&statuses[1], PointStatus::SoftDeleted(point, deletion)
        if *point == points[1] && deletion.actor == "eva"));
    restore_disk(&test.vault, &points[1], "sda", &images[1]).await;

    let objects = test.objects();
    let plan = test.vault.plan_collection(CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
    assert_eq!(plan.purged, [PurgedPoint { machine, seq: points[1].seq }]);
    assert_eq!(test.objects(), objects, "a plan writes nothing");
    let report = collect_at(&test.vault, Utc::now()).await;
    assert_eq!(report.purged, plan.purged);
    assert_eq!(
        (report.condemned_segments, report.condemned_bytes),
        (plan.condemned_segments, plan.condemned_bytes),
        "it does what was planned"
    );
    assert_eq!(report.deleted_bytes, report.condemned_bytes);
    assert!(report.deleted_bytes > 6 * MIB as u64, "{report:?}");
    assert!(test.size() < before - report.deleted_bytes + 64 * 1024);

    let vault = test.reopen().await.unwrap();
    let left: Vec<u64> = good_points(&vault, machine).await.iter().map(|point| point.seq).collect();
    assert_eq!(left, [points[0].seq, points[2].seq, points[3].seq]);
    for index in [0, 2, 3] {
        restore_disk(&vault, &points[index], "sda", &images[index]).await;
    }
    let undeleted = vault.decide_point(machine, points[1].seq, Action::Undelete, "eva").await;
    assert_eq!(refusal(undeleted), Refusal::Purged);
    // Its name stays taken: a gateway that wakes up late cannot make it again.
    assert!(vault.point_seqs(machine).await.unwrap().contains(&points[1].seq));
    let again = collect_at(&vault, Utc::now()).await;
    assert_eq!((again.purged.len(), again.condemned_segments, again.deleted_segments), (0, 0, 0));
}

/// A backup that is under way keeps its base, even one that is purged meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_way_keeps_what_it_builds_on() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(13, 4 * MIB);
    let base = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    test.vault.decide_point(machine, base.seq, AT_ONCE, "eva").await.unwrap();
    for purged in [1, 0, 0] {
        let report = collect_at(&test.vault, Utc::now()).await;
        assert_eq!((report.purged.len(), report.condemned_segments), (purged, 0));
    }
    image.change(14, 30);
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    let report = collect_at(&test.vault, Utc::now()).await;
    assert_eq!(report.deleted_segments, 0);
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
    assert_eq!(good_points(&test.vault, machine).await, [point]);
}

/// Its gateway has it in memory, and may commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_base_of_a_backup_under_way_holds_the_collection() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(32, 2 * MIB);
    let base = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    test.vault.decide_point(machine, base.seq, AT_ONCE, "eva").await.unwrap();
    let path = test.path.join(format!("points/{machine}/{:020}", base.seq));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        let report = collect_at(&test.vault, Utc::now()).await;
        assert_eq!((report.held.len(), report.condemned_segments, report.deleted_segments), (1, 0, 0));
    }
    image.change(33, 30);
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    for _ in 0..2 {
        assert!(collect_at(&test.vault, Utc::now()).await.held.is_empty());
    }
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
}

/// One that began before a collection and had taken over what is condemned: it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_condemned_waits_for_backups_that_began_before() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(15, 4 * MIB);
    leave_over(&test.vault, machine, &image).await;
    // Condemned before the next backup begins, deleted after.
    let mut run = test.vault.begin_collection(impatient()).await.unwrap();
    let second = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(second.disk_base("sda").unwrap().has_overlay, "it takes over what is not condemned yet");
    run.look(|_| {}).await.unwrap();
    run.condemn().await.unwrap();
    run.look_again().await.unwrap();
    assert_eq!(run.sweep().await.unwrap().deleted_segments, 0, "the second backup adopted it");
    let point = finish(&second, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
    let report = collect_garbage(&test.vault, impatient(), |_| {}).await.unwrap();
    assert_eq!(report.deleted_segments, 0, "now a point needs it");
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_condemned_is_taken_over() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(16, 4 * MIB);
    leave_over(&test.vault, machine, &image).await;
    let kept = collect_at(&test.vault, Utc::now()).await;
    assert_eq!(kept.condemned_segments, 0, "the next attempt may want it");
    let later = Utc::now() + TimeDelta::days(8);
    let options = CollectOptions { clock: ClockTrust::Trusted, ..CollectOptions::new(later) };
    let mut run = test.vault.begin_collection(options).await.unwrap();
    run.look(|_| {}).await.unwrap();
    run.condemn().await.unwrap();
    let second = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(!second.disk_base("sda").unwrap().has_overlay);
    run.look_again().await.unwrap();
    assert!(run.sweep().await.unwrap().deleted_segments > 0, "the second backup knows what is condemned");
    let point = finish(&second, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
}

/// What a delta that cannot be read refers to is not known, and may be any machine's: nothing goes, until the points are given
/// up.
#[tokio::test(flavor = "multi_thread")]
async fn damage_holds_the_collection() {
    let test = TestVault::new().await;
    let (broken, sound) = (Uuid::new_v4(), Uuid::new_v4());
    let mut last = Vec::new();
    for machine in [broken, sound] {
        for seed in 0..3 {
            let image = Image::noise(20 + seed, 2 * MIB);
            let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
            if seed == 0 {
                test.vault.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap();
            }
            last.push((point, image));
        }
    }
    // The delta of the second point.
    let segment = test.path.join(format!("seg/{broken}/{:020}/00000000.0", last[1].0.seq));
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &bytes[..bytes.len() - 100]).unwrap();
    let vault = test.reopen().await.unwrap();
    for _ in 0..2 {
        let report = collect_at(&vault, Utc::now()).await;
        assert_eq!((report.condemned_segments, report.deleted_segments), (0, 0));
        let [(held, error)] = &*report.held else { panic!("{:?}", report.held) };
        assert!(*held == broken && error.is_damage());
    }
    assert!(vault.points(sound).await.unwrap().len() == 2);
    restore_disk(&vault, &last[2].0, "sda", &last[2].1).await;
    // An operator gives the damaged one up.
    vault.decide_point(broken, last[1].0.seq, AT_ONCE, "eva").await.unwrap();
    let report = collect_at(&vault, Utc::now()).await;
    assert!(report.held.is_empty() && report.deleted_bytes > 5 * MIB as u64, "of both: {report:?}");
    restore_disk(&vault, &last[2].0, "sda", &last[2].1).await;
    restore_disk(&vault, &last[5].0, "sda", &last[5].1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_the_storage_lost_holds_collections_until_it_is_given_up() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut seqs = Vec::new();
    for seed in 0..3 {
        let point = back_up(&test.vault, machine, &[("sda", &Image::noise(seed, MIB))]).await.unwrap();
        seqs.push(point.seq);
    }
    let lost = seqs[2];
    let its_segment = |name: &String| name.contains(&format!("{lost:020}/00000000.0"));
    std::fs::remove_file(test.path.join(format!("points/{machine}/{lost:020}"))).unwrap();
    let vault = test.reopen().await.unwrap();
    let options = || CollectOptions {
        catalogued: [(machine, seqs.clone())].into(),
        clock: ClockTrust::Trusted,
        ..impatient()
    };
    let report = collect_garbage(&vault, options(), |_| {}).await.unwrap();
    assert_eq!((report.held.len(), report.deleted_segments), (1, 0));
    assert!(test.objects().iter().any(its_segment));

    // It can be put back, or be given up; nothing else makes sense.
    let lock = Action::Lock {
        mode: LockMode::Governance,
        until: (Utc::now() + TimeDelta::days(1)).timestamp_micros(),
    };
    let refused = vault.decide_point(machine, lost, lock, "eva").await;
    assert!(matches!(refused, Err(VaultError::Missing { .. })), "{refused:?}");
    vault.decide_point(machine, lost, AT_ONCE, "eva").await.unwrap();
    vault.decide_point(machine, lost, Action::Undelete, "eva").await.unwrap();
    let told = vault.points(machine).await.unwrap();
    assert!(matches!(&told[2], PointStatus::Damaged { seq, .. } if *seq == lost), "{told:?}");
    assert_eq!(collect_garbage(&vault, options(), |_| {}).await.unwrap().held.len(), 1);
    vault.decide_point(machine, lost, AT_ONCE, "eva").await.unwrap();
    let report = collect_garbage(&vault, options(), |_| {}).await.unwrap();
    assert!(report.held.is_empty() && report.purged.len() == 1, "{report:?}");
    assert_eq!(vault.points(machine).await.unwrap().len(), 2);
    // The catalogue may not know yet.
    assert!(collect_garbage(&vault, options(), |_| {}).await.unwrap().held.is_empty());
    assert!(collect_garbage(&vault, options(), |_| {}).await.unwrap().held.is_empty());
    assert!(!test.objects().iter().any(its_segment));

    // Nobody else gets its number, with what was decided about it.
    let image = Image::noise(9, MIB);
    let next = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    assert!(next.seq > lost);
    assert!(collect_garbage(&vault, options(), |_| {}).await.unwrap().held.is_empty());
    restore_disk(&vault, &next, "sda", &image).await;
}

/// As long as its `open` object is there, a point that was lost looks like a backup that nobody works on.
#[tokio::test(flavor = "multi_thread")]
async fn no_abort_takes_the_place_of_a_point_that_the_storage_lost() {
    let test = TestVault::new().await;
    let (machine, mut image) = (Uuid::new_v4(), Image::noise(1, MIB));
    let lost = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let at = test.path.join(format!("points/{machine}/{:020}", lost.seq));
    let away = test.path.join("../away");
    std::fs::rename(&at, &away).unwrap();
    let vault = test.reopen().await.unwrap();
    let truth = image.clone();
    image.change(1, 20);
    let next = BeginBackup { at_least_seq: lost.seq, ..request(machine, &[("sda", &image)]) };
    let next = finish(&begin(&vault, next).await.unwrap(), &[("sda", &image)]).await.unwrap();
    let options =
        || CollectOptions { catalogued: [(machine, vec![lost.seq, next.seq])].into(), ..impatient() };
    assert_eq!(collect_garbage(&vault, options(), |_| {}).await.unwrap().held.len(), 1);
    std::fs::rename(&away, &at).unwrap();
    restore_disk(&vault, &lost, "sda", &truth).await;
    assert!(collect_garbage(&vault, options(), |_| {}).await.unwrap().held.is_empty());
    restore_disk(&vault, &lost, "sda", &truth).await;
    restore_disk(&vault, &next, "sda", &image).await;

    // One that was aborted nevertheless is still a point to the catalogue.
    std::fs::remove_file(&at).unwrap();
    vault.conclude(machine, lost.seq, "it seems dead").await.unwrap();
    let report = collect_garbage(&test.reopen().await.unwrap(), options(), |_| {}).await.unwrap();
    assert_eq!((report.held.len(), report.deleted_segments), (1, 0), "{report:?}");
    vault.decide_point(machine, lost.seq, AT_ONCE, "eva").await.unwrap();
    let report = collect_garbage(&vault, options(), |_| {}).await.unwrap();
    assert!(report.held.is_empty() && report.purged.len() == 1, "{report:?}");
    restore_disk(&vault, &next, "sda", &image).await;
}

/// An older copy of the vault is put in its place while a collector remembers what became of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_is_looked_at_again() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let images = [Image::noise(34, MIB), Image::noise(35, MIB)];
    let first = back_up(&test.vault, machine, &[("sda", &images[0])]).await.unwrap();
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    let kept = test.path.with_extension("copy");
    copy(&test.path, &kept);
    leave_over(&test.vault, machine, &images[1]).await;
    test.vault.decide_point(machine, first.seq, AT_ONCE, "eva").await.unwrap();
    for _ in 0..2 {
        collect_garbage(&test.vault, impatient(), |_| {}).await.unwrap();
    }
    assert!(!test.objects().iter().any(|name| name.starts_with("seg/")));

    std::fs::remove_dir_all(&test.path).unwrap();
    copy(&kept, &test.path);
    let second = back_up(&test.vault, machine, &[("sda", &images[1])]).await.unwrap();
    assert_eq!(second.seq, first.seq + 1, "the number of what was given up");
    for _ in 0..2 {
        let report = collect_garbage(&test.vault, impatient(), |_| {}).await.unwrap();
        assert_eq!((report.condemned_segments, report.held.len()), (0, 0), "{report:?}");
    }
    for (point, image) in [&first, &second].into_iter().zip(&images) {
        restore_disk(&test.reopen().await.unwrap(), point, "sda", image).await;
    }
}

/// Events decide one after the other, whoever asks.
#[tokio::test(flavor = "multi_thread")]
async fn many_decide_at_the_same_time() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let point = back_up(&test.vault, machine, &[("sda", &Image::mixed(3, MIB))]).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|index| {
            let (vault, seq) = (test.vault.clone(), point.seq);
            let until = (Utc::now() + TimeDelta::days(index)).timestamp_micros();
            let action = match index % 3 {
                0 => AT_ONCE,
                1 => Action::Undelete,
                _ => Action::Lock { mode: LockMode::Governance, until },
            };
            tokio::spawn(async move { vault.decide_point(machine, seq, action, "many").await })
        })
        .collect();
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) | Err(VaultError::Refused { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let standing = test.reopen().await.unwrap().standing(machine, point.seq).await.unwrap();
    assert!(standing.lock.is_none() || standing.state == PointState::Listed, "{standing:?}");
}

/// What was taken over counts as sent, whatever was collected in between.
#[tokio::test(flavor = "multi_thread")]
async fn young_leftovers_are_not_sent_again() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(17, 3 * MIB);
    leave_over(&test.vault, machine, &image).await;
    collect_at(&test.vault, Utc::now()).await;
    collect_at(&test.vault, Utc::now() + TimeDelta::days(1)).await;
    let second = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let overlay = read_map(&second, "sda", holdfast_vault_engine::MapLayer::Overlay).await.unwrap();
    assert_eq!(overlay.len(), image.blocks());
}

/// A backup that begins while a collection has looked and not yet condemned takes over what will be: it may commit it, and
/// from then on nobody takes it over any more, however long a collector that looked sleeps.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_condemned_is_taken_over_by_nobody_for_ever() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(18, 4 * MIB);
    leave_over(&test.vault, machine, &image).await;
    let mut run = test.vault.begin_collection(impatient()).await.unwrap();
    run.look(|_| {}).await.unwrap();
    let second = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(second.disk_base("sda").unwrap().has_overlay, "it is not condemned yet");
    run.condemn().await.unwrap();
    run.look_again().await.unwrap();
    let report = run.sweep().await.unwrap();
    assert_eq!((report.deleted_segments, &*report.waiting_for), (0, &[(machine, second.seq())][..]));
    let point = finish(&second, &[("sda", &image)]).await.unwrap();
    assert_eq!(
        collect_garbage(&test.vault, impatient(), |_| {}).await.unwrap().deleted_segments,
        0,
        "a point needs it"
    );
    restore_disk(&test.vault, &point, "sda", &image).await;

    test.vault.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap();
    let mut sleeper = test.vault.begin_collection(impatient()).await.unwrap();
    sleeper.look(|_| {}).await.unwrap();
    sleeper.condemn().await.unwrap();
    sleeper.look_again().await.unwrap();
    let third = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(!third.disk_base("sda").unwrap().has_overlay);
    let newest = finish(&third, &[("sda", &image)]).await.unwrap();
    assert!(sleeper.sweep().await.unwrap().deleted_segments > 0);
    restore_disk(&test.reopen().await.unwrap(), &newest, "sda", &image).await;
}

/// Names with numbers that no collection gets to: of somebody else's, or made to end them.
#[tokio::test(flavor = "multi_thread")]
async fn no_number_ends_collections() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let collect = async || {
        let options = CollectOptions { clock: ClockTrust::Trusted, ..CollectOptions::new(Utc::now()) };
        tokio::time::timeout(Duration::from_secs(60), collect_garbage(&test.vault, options, |_| {}))
            .await
            .unwrap()
    };
    let put = |name: &str| {
        let path = test.path.join("gc").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"junk").unwrap();
        path
    };
    for name in ["18446744073709551615", "18446744073709551615.set", "18446744073709551614.done"] {
        put(name);
    }
    for far in [None, Some("00000000900000000000")] {
        let image = Image::noise(1, MIB);
        let old = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        collect().await.unwrap();
        test.vault.decide_point(machine, old.seq, AT_ONCE, "eva").await.unwrap();
        far.map(put);
        let report = collect().await.unwrap();
        assert!(report.purged.len() == 1 && report.deleted_segments > 0, "{report:?}");
    }
    let last = put("00000000999999999999");
    let error = collect().await.unwrap_err();
    assert!(error.to_string().contains("gc/00000000999999999999"), "{error}");
    std::fs::remove_file(last).unwrap();
    collect().await.unwrap();
}
