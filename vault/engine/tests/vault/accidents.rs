//! Accidents in which other backup programs lost data, each as one schedule: somebody is held between two requests of one step while
//! others go on. What is listed restores, nobody commits what is gone, and collections come to an end.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    Backup, ClockTrust, CollectOptions, CollectionReport, Compaction, Samples, Storage, Vault, VaultError,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::paced::{Hold, Kind, Paced};
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore_disk, send_changes,
};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;

/// What backups without a point sent is kept for the next attempt.
fn patient() -> CollectOptions {
    CollectOptions {
        clock: ClockTrust::Trusted,
        compaction: Compaction::All,
        least_gain: 1,
        ..CollectOptions::new(Utc::now() + TimeDelta::hours(1))
    }
}

fn impatient() -> CollectOptions {
    CollectOptions { keep_leftovers: Duration::ZERO, ..patient() }
}

async fn collect(vault: &Vault, options: CollectOptions) -> CollectionReport {
    let report = collect_garbage(vault, options, |_| {}).await.unwrap();
    assert!(report.held.is_empty(), "{report:?}");
    report
}

fn spawn_collect(vault: Vault, options: CollectOptions) -> JoinHandle<CollectionReport> {
    tokio::spawn(async move { collect(&vault, options).await })
}

/// Another process, one of whose requests can be held.
async fn process(test: &TestVault, hold: &Arc<Hold>) -> Vault {
    let storage = Storage::directory(&test.path).unwrap();
    Vault::open(storage.through(|store| Paced::over(store, Arc::clone(hold) as _)), &test.key).await.unwrap()
}

/// A backup that sends everything and is given up.
async fn leave_over(vault: &Vault, machine: Uuid, image: &Image) {
    let lost = begin(vault, request(machine, &[("sda", image)])).await.unwrap();
    send_changes(&lost, "sda", image).await.unwrap();
    lost.flush().await.unwrap();
    vault.conclude(machine, lost.seq(), "lost").await.unwrap();
}

/// It was concluded: whatever it finds, there is no point of it.
async fn commits_nothing(backup: &Backup, image: &Image) {
    match finish(backup, &[("sda", image)]).await {
        Err(VaultError::Aborted { .. }) => {}
        Err(error) if error.is_damage() => {}
        other => panic!("{other:?}"),
    }
}

/// Whatever the accident left is collected by two collections; a third would have nothing to do.
async fn comes_to_an_end(test: &TestVault) {
    let vault = test.reopen().await.unwrap();
    for _ in 0..2 {
        assert!(collect(&vault, impatient()).await.waiting_for.is_empty());
    }
    let plan = vault.plan_collection(impatient(), |_| {}).await.unwrap();
    assert_eq!((plan.condemned_segments, plan.compacted_segments, plan.held.len()), (0, 0, 0), "{plan:?}");
}

/// restic's locks: a laptop slept, its lock expired, and `prune` ran beside `backup`. Here the backup sleeps with its last request on the
/// way. As long as nobody decided about it, a collection keeps what it needs; once it was given up, that request makes no point.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_lock_expired_commits_nothing_that_was_pruned() {
    for is_given_up in [false, true] {
        let test = TestVault::new().await;
        let machine = Uuid::new_v4();
        let mut image = Image::noise(1, 2 * MIB);
        let base = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        image.change(2, 100);
        let hold = Hold::new(Kind::Put, format!("points/{machine}/"));
        let laptop = process(&test, &hold).await;
        let backup = begin(&laptop, request(machine, &[("sda", &image)])).await.unwrap();
        hold.after(0);
        let asleep = tokio::spawn({
            let (backup, image) = (backup.clone(), image.clone());
            async move { finish(&backup, &[("sda", &image)]).await }
        });
        hold.has_come().await;
        test.vault.decide_point(machine, base.seq, AT_ONCE, "eva").await.unwrap();
        if is_given_up {
            test.vault.conclude(machine, backup.seq(), "its lease ran out").await.unwrap();
        }
        let report = collect(&test.reopen().await.unwrap(), impatient()).await;
        assert_eq!((report.purged.len(), report.deleted_segments > 0), (1, is_given_up), "{report:?}");
        hold.let_go();
        let committed = asleep.await.unwrap();
        let vault = test.reopen().await.unwrap();
        let points = good_points(&vault, machine).await;
        if is_given_up {
            assert!(matches!(&committed, Err(VaultError::Aborted { .. })), "{committed:?}");
            assert_eq!(points, []);
        } else {
            assert_eq!(points, [committed.unwrap()]);
            restore_disk(&vault, &points[0], "sda", &image).await;
        }
        let next = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
        comes_to_an_end(&test).await;
        let vault = test.reopen().await.unwrap();
        for point in points.iter().chain([&next]) {
            restore_disk(&vault, point, "sda", &image).await;
        }
    }
}

/// Kopia #1087: two maintenance jobs at a time, each of which was right when it looked. Here the first one sleeps after it chose what it
/// condemns; the second one, begun later, condemns and ends; a backup that knows the second's takes over what is the first's.
#[tokio::test(flavor = "multi_thread")]
async fn two_collectors_at_a_time_take_nothing_from_a_backup_that_knows_one_of_them() {
    let test = TestVault::new().await;
    let (machine, other) = (Uuid::new_v4(), Uuid::new_v4());
    let image = Image::noise(3, 2 * MIB);
    leave_over(&test.vault, machine, &image).await;
    let garbage = back_up(&test.vault, other, &[("sda", &Image::noise(4, MIB))]).await.unwrap();
    let hold = Hold::new(Kind::List, "gc");
    let sleeper = process(&test, &hold).await;
    let mut first = sleeper.begin_collection(impatient()).await.unwrap();
    first.look(|_| {}).await.unwrap();
    // The number under which it condemns is asked for by a listing.
    hold.after(0);
    let first = tokio::spawn(async move {
        first.condemn().await.unwrap();
        first.look_again().await.unwrap();
        first.sweep().await.unwrap()
    });
    hold.has_come().await;

    test.vault.decide_point(other, garbage.seq, AT_ONCE, "eva").await.unwrap();
    let second = collect(&test.vault, patient()).await;
    assert!(second.deleted_segments > 0, "{second:?}");
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(backup.disk_base("sda").unwrap().has_overlay, "the first one has not condemned it yet");
    hold.let_go();
    let report = first.await.unwrap();
    assert_eq!((report.condemned_segments, report.deleted_segments), (1, 0), "{report:?}");
    assert_eq!(report.waiting_for, [(machine, backup.seq())]);
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
    comes_to_an_end(&test).await;
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
}

/// The same with three: one sleeps after it chose a number, one after it saw what is condemned under the same, and the one that condemned
/// that ends in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_taken_again_stands_for_nothing_else() {
    let test = TestVault::new().await;
    let (machine, other) = (Uuid::new_v4(), Uuid::new_v4());
    let image = Image::noise(5, 2 * MIB);
    leave_over(&test.vault, machine, &image).await;
    let garbage = back_up(&test.vault, other, &[("sda", &Image::noise(6, MIB))]).await.unwrap();
    let put = Hold::new(Kind::Put, ".set");
    let late = process(&test, &put).await;
    let mut late = late.begin_collection(impatient()).await.unwrap();
    late.look(|_| {}).await.unwrap();
    put.after(0);
    let late = tokio::spawn(async move { late.condemn().await.unwrap() });
    put.has_come().await;

    test.vault.decide_point(other, garbage.seq, AT_ONCE, "eva").await.unwrap();
    let mut first = test.vault.begin_collection(patient()).await.unwrap();
    first.look(|_| {}).await.unwrap();
    first.condemn().await.unwrap();
    let get = Hold::new(Kind::Get, ".set");
    let reader = process(&test, &get).await;
    let mut reader = reader.begin_collection(impatient()).await.unwrap();
    reader.look(|_| {}).await.unwrap();
    get.after(0);
    let reader = tokio::spawn(async move {
        reader.look_again().await.unwrap();
        reader
    });
    get.has_come().await;
    first.look_again().await.unwrap();
    assert!(first.sweep().await.unwrap().deleted_segments > 0);

    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(backup.disk_base("sda").unwrap().has_overlay, "nobody has condemned it yet");
    send_changes(&backup, "sda", &image).await.unwrap();
    let prepared = backup.prepare(&[]).await.unwrap();
    // It puts its own set where that of the first one was, and is killed.
    put.let_go();
    late.await.unwrap();
    get.let_go();
    let report = reader.await.unwrap().sweep().await.unwrap();
    assert_eq!(report.deleted_segments, 0, "{report:?}");
    let point = prepared.commit().await.unwrap();
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
    comes_to_an_end(&test).await;
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
}

/// Proxmox PSA-2025-00019-1: a collection listed the points, a new one was built on the oldest, and that was pruned before the
/// collection came to it. So nobody marked what both had.
#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_pruned_while_points_are_marked_takes_nothing_from_its_successor() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(7, 2 * MIB);
    let old = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let hold = Hold::new(Kind::Get, "vault.json");
    let collector = process(&test, &hold).await;
    let mut run = collector.begin_collection(impatient()).await.unwrap();
    // Whether the vault is there is asked after the points were listed and before any is read.
    hold.after(0);
    let collecting = tokio::spawn(async move {
        run.look(|_| {}).await.unwrap();
        run.condemn().await.unwrap();
        run.look_again().await.unwrap();
        run.sweep().await.unwrap()
    });
    hold.has_come().await;
    image.change(8, 100);
    let new = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    test.vault.decide_point(machine, old.seq, AT_ONCE, "eva").await.unwrap();
    // Another collection purges it, and gets no further.
    let mut pruning = test.vault.begin_collection(impatient()).await.unwrap();
    pruning.look(|_| {}).await.unwrap();
    assert_eq!(pruning.purged().len(), 1);
    hold.let_go();
    let report = collecting.await.unwrap();
    assert_eq!((report.deleted_segments, report.held.len()), (0, 0), "{report:?}");
    restore_disk(&test.reopen().await.unwrap(), &new, "sda", &image).await;
    comes_to_an_end(&test).await;
    let vault = test.reopen().await.unwrap();
    restore_disk(&vault, &new, "sda", &image).await;
    assert_eq!(good_points(&vault, machine).await, [new]);
}

/// The same from the other side: the new one has chosen the old one to build on and said so to nobody when that is pruned, condemned and
/// looked at for the last time.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_builds_on_a_point_that_was_pruned_before_it_said_so() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(9, 2 * MIB);
    let old = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    test.vault.decide_point(machine, old.seq, AT_ONCE, "eva").await.unwrap();
    image.change(10, 100);
    let before_open = Hold::new(Kind::Put, format!("open/{machine}/"));
    let gateway = process(&test, &before_open).await;
    before_open.after(0);
    let backing_up = tokio::spawn({
        let (gateway, image) = (gateway.clone(), image.clone());
        async move { begin(&gateway, request(machine, &[("sda", &image)])).await.unwrap() }
    });
    before_open.has_come().await;
    let before_sweep = Hold::new(Kind::Delete, "seg/");
    let collector = process(&test, &before_sweep).await;
    before_sweep.after(0);
    let collecting = spawn_collect(collector, impatient());
    before_sweep.has_come().await;
    before_open.let_go();
    let backup = backing_up.await.unwrap();
    send_changes(&backup, "sda", &image).await.unwrap();
    let prepared = backup.prepare(&[]).await.unwrap();
    before_sweep.let_go();
    assert!(collecting.await.unwrap().deleted_segments > 0);
    let point = prepared.commit().await.unwrap();
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
    comes_to_an_end(&test).await;
    let vault = test.reopen().await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
    assert_eq!(good_points(&vault, machine).await, [point]);
}

/// Duplicacy's fossils: two backups of one machine at a time, the first of which ended and so let go what the second relied on. Here
/// the first one is concluded as the second begins, which would take over what the first had borrowed; between its look at what is condemned
/// and its `open` that is condemned and looked at for the last time.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_backups_of_a_machine_the_end_of_one_takes_nothing_from_the_other() {
    let test = TestVault::new().await;
    let (lender, machine) = (Uuid::new_v4(), Uuid::new_v4());
    let image = Image::noise(11, 2 * MIB);
    let vault = test.vault.deduplicating(Arc::new(Samples::within(1 << 20)));
    let lent = back_up(&vault, lender, &[("sda", &image)]).await.unwrap();
    let first = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&first, "sda", &image).await.unwrap();
    first.flush().await.unwrap();
    vault.decide_point(lender, lent.seq, AT_ONCE, "eva").await.unwrap();

    let before_open = Hold::new(Kind::Put, format!("open/{machine}/"));
    let gateway = process(&test, &before_open).await;
    before_open.after(0);
    let beginning = tokio::spawn({
        let (gateway, image) = (gateway.clone(), image.clone());
        async move { begin(&gateway, request(machine, &[("sda", &image)])).await.unwrap() }
    });
    before_open.has_come().await;
    let before_sweep = Hold::new(Kind::Delete, "seg/");
    let collector = process(&test, &before_sweep).await;
    before_sweep.after(0);
    let collecting = spawn_collect(collector, patient());
    before_sweep.has_come().await;
    before_open.let_go();
    let second = beginning.await.unwrap();
    send_changes(&second, "sda", &image).await.unwrap();
    let prepared = second.prepare(&[]).await.unwrap();
    before_sweep.let_go();
    let report = collecting.await.unwrap();
    assert!(report.deleted_segments > 0 && report.waiting_for.is_empty(), "{report:?}");
    let point = prepared.commit().await.unwrap();
    commits_nothing(&first, &image).await;
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
    comes_to_an_end(&test).await;
    let vault = test.reopen().await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
    assert_eq!(good_points(&vault, machine).await, [point]);
}

/// What kept the accidents above from happening is the order of a mark's listings: a backup that ends between two of them, and of which
/// another collection leaves nothing but its point, is seen in one of them, in whichever gap that is. It took over what is condemned, or
/// borrowed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_ends_between_two_listings_of_a_mark_is_seen() {
    for (is_borrowed, gap) in [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1)] {
        let test = TestVault::new().await;
        let (lender, machine) = (Uuid::new_v4(), Uuid::new_v4());
        let image = Image::noise(12, MIB);
        let vault = test.vault.deduplicating(Arc::new(Samples::within(1 << 20)));
        if is_borrowed {
            let lent = back_up(&vault, lender, &[("sda", &image)]).await.unwrap();
            vault.decide_point(lender, lent.seq, AT_ONCE, "eva").await.unwrap();
        } else {
            leave_over(&vault, machine, &image).await;
        }
        let between = Hold::new(Kind::List, format!("/{machine}"));
        let collector = process(&test, &between).await;
        let mut run = collector.begin_collection(impatient()).await.unwrap();
        run.look(|_| {}).await.unwrap();
        let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
        run.condemn().await.unwrap();
        let sent = send_changes(&backup, "sda", &image).await.unwrap();
        assert_eq!(sent == 0, !is_borrowed, "it took over what was left, or borrowed it");
        between.after(gap);
        let collecting = tokio::spawn(async move {
            run.look_again().await.unwrap();
            run.sweep().await.unwrap()
        });
        between.has_come().await;
        let point = finish(&backup, &[("sda", &image)]).await.unwrap();
        assert!(point.disks[0].stored_bytes < MIB as u64 / 2 || !is_borrowed, "{point:?}");
        let open = format!("open/{machine}/{:020}", point.seq);
        assert!(test.objects().contains(&open));
        let mut other = vault.begin_collection(impatient()).await.unwrap();
        other.look(|_| {}).await.unwrap();
        assert!(!test.objects().contains(&open), "it is of no more use");
        between.let_go();
        let report = collecting.await.unwrap();
        assert_eq!(report.deleted_segments, 0, "{is_borrowed}, {gap}: {report:?}");
        restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
        comes_to_an_end(&test).await;
        restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
    }
}
