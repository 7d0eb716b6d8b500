//! What one machine has stored, others refer to: it takes no room, and is there as long as any of them needs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    BeginBackup, ClockTrust, CollectOptions, CollectionReport, MapLayer, Point, Samples, Vault, VerifyDepth,
    VerifyPace, VerifyScope,
};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::agent::{push_blocks, read_map};
use super::support::anatomy::{Anatomist, Region};
use super::support::faulty::{Fault, Faulty};
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore, restore_disk, send_changes,
};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;

fn samples() -> Arc<Samples> {
    Arc::new(Samples::within(1 << 20))
}

async fn collect(vault: &Vault) -> CollectionReport {
    let options = CollectOptions {
        clock: ClockTrust::Trusted,
        ..CollectOptions::new(Utc::now() + TimeDelta::days(30))
    };
    collect_garbage(vault, options, |_| {}).await.unwrap()
}

/// A vault in which two machines are clones: the first is the lender.
async fn lent(image: &Image) -> (TestVault, Vault, [Point; 2]) {
    let test = TestVault::new().await;
    let vault = test.vault.deduplicating(samples());
    let one = back_up(&vault, Uuid::new_v4(), &[("sda", image)]).await.unwrap();
    let two = back_up(&vault, Uuid::new_v4(), &[("vda", image)]).await.unwrap();
    (test, vault, [one, two])
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_take_no_room() {
    let test = TestVault::new().await;
    let vault = test.vault.deduplicating(samples());
    // Cells of whole groups of blocks, as agents send them.
    let image = Image::noise(1, 40 * MIB);
    let mut points = Vec::new();
    let mut first = 0;
    for machine in 0..10 {
        let before = test.size();
        let mut image = image.clone();
        // Each has something of its own: a name, say.
        image.0[9 * MIB..][..5].copy_from_slice(format!("{machine:05}").as_bytes());
        let point = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
        let grown = test.size() - before;
        if machine == 0 {
            first = grown;
        } else {
            assert!(grown * 50 < first, "machine {machine} took {grown} bytes, the first one {first}");
        }
        assert_eq!(point.disks[0].stored_bytes, grown, "what is said is what it took");
        assert_eq!(point.disks[0].changed_bytes, image.size_bytes());
        points.push((point, image));
    }
    let vault = test.reopen().await.unwrap();
    for (point, image) in &points {
        restore_disk(&vault, point, "sda", image).await;
    }
    // The gateway that starts anew learns from the directories.
    let vault = vault.deduplicating(samples());
    let learnt = vault.learn_samples(|_| {}).await.unwrap();
    assert!(learnt.segments > 0 && learnt.samples > 300, "{learnt:?}");
    let before = test.size();
    let point = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    assert!((test.size() - before) * 50 < first);
    restore_disk(&vault, &point, "sda", &image).await;
}

/// What is copied on its disk, and everything once more, as after damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_refers_to_what_it_stored_itself() {
    let test = TestVault::new().await;
    let vault = test.vault.deduplicating(samples());
    let machine = Uuid::new_v4();
    let mut image = Image::noise(2, 40 * MIB);
    back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    let half = image.0[..20 * MIB].to_vec();
    image.resize(80 * MIB);
    image.0[50 * MIB..70 * MIB].copy_from_slice(&half);
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    assert!(point.disks[0].sent_bytes >= 20 * MIB as u64, "{point:?}");
    assert!(point.disks[0].stored_bytes < MIB as u64, "{point:?}");
    restore_disk(&vault, &point, "sda", &image).await;
    let again = BeginBackup { damaged: vec![point.seq], ..request(machine, &[("sda", &image)]) };
    let point = finish(&begin(&vault, again).await.unwrap(), &[("sda", &image)]).await.unwrap();
    assert!(point.disks[0].stored_bytes < MIB as u64, "{point:?}");
    image.change(3, 40);
    let next = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.reopen().await.unwrap(), &next, "sda", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_borrower_needs_stays_when_the_lender_is_gone() {
    let mut image = Image::mixed(4, 6 * MIB);
    let (test, vault, [one, two]) = lent(&image).await;
    let first = image.clone();
    image.change(5, 30);
    // Merged deltas name what they borrow too.
    let third = back_up(&vault, two.machine, &[("vda", &image)]).await.unwrap();
    vault.decide_point(one.machine, one.seq, AT_ONCE, "eva").await.unwrap();
    for _ in 0..2 {
        let vault = test.reopen().await.unwrap();
        let report = collect(&vault).await;
        assert!(report.held.is_empty() && report.deleted_segments == 0, "{report:?}");
        restore_disk(&vault, &two, "vda", &first).await;
        restore_disk(&vault, &third, "vda", &image).await;
    }
    // The lender begins anew, with what was its own.
    let before = test.size();
    let again = back_up(&vault, one.machine, &[("sda", &first)]).await.unwrap();
    assert!((test.size() - before) * 20 < one.disks[0].stored_bytes, "{again:?}");
    for point in [&two, &third] {
        vault.decide_point(point.machine, point.seq, AT_ONCE, "eva").await.unwrap();
    }
    collect(&vault).await;
    restore_disk(&test.reopen().await.unwrap(), &again, "sda", &first).await;
    vault.decide_point(one.machine, again.seq, AT_ONCE, "eva").await.unwrap();
    collect(&vault).await;
    assert!(!test.objects().iter().any(|name| name.starts_with("seg/")), "{:?}", test.objects());
}

/// A borrower that is under way while the lender's last point goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_borrowed_by_a_backup_under_way_stays() {
    let image = Image::mixed(6, 4 * MIB);
    let test = TestVault::new().await;
    let vault = test.vault.deduplicating(samples());
    let one = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let borrower = Uuid::new_v4();
    let backup = begin(&vault, request(borrower, &[("sda", &image)])).await.unwrap();
    vault.decide_point(one.machine, one.seq, AT_ONCE, "eva").await.unwrap();
    let options = || CollectOptions {
        clock: ClockTrust::Trusted,
        ..CollectOptions::new(Utc::now() + TimeDelta::days(30))
    };
    let mut run = vault.begin_collection(options()).await.unwrap();
    run.look(|_| {}).await.unwrap();
    run.condemn().await.unwrap();
    // It began before: it may refer to what was condemned since.
    send_changes(&backup, "sda", &image).await.unwrap();
    backup.flush().await.unwrap();
    run.look_again().await.unwrap();
    let report = run.sweep().await.unwrap();
    assert_eq!(report.waiting_for, [(borrower, backup.seq())]);
    assert_eq!(report.deleted_segments, 0);
    // One that begins now knows, and stores it itself.
    let third = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    assert!(third.disks[0].stored_bytes * 5 > one.disks[0].stored_bytes * 4);
    let two = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
    assert!(two.disks[0].stored_bytes * 20 < one.disks[0].stored_bytes, "{two:?}");
    for _ in 0..2 {
        assert_eq!(collect_garbage(&vault, options(), |_| {}).await.unwrap().deleted_segments, 0);
        restore_disk(&test.reopen().await.unwrap(), &two, "sda", &image).await;
    }
    vault.decide_point(borrower, two.seq, AT_ONCE, "eva").await.unwrap();
    assert!(collect_garbage(&vault, options(), |_| {}).await.unwrap().deleted_segments > 0);
    restore_disk(&test.reopen().await.unwrap(), &third, "sda", &image).await;
}

/// Nothing of a machine is there any more, and comes back: only the catalogue tells that it needs what it borrowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_borrower_that_is_wholly_lost_holds_the_collection() {
    let image = Image::noise(11, 4 * MIB);
    let (test, vault, [lender, borrower]) = lent(&image).await;
    let third = Uuid::new_v4();
    let garbage = back_up(&vault, third, &[("sda", &Image::noise(12, MIB))]).await.unwrap();
    for gone in [&lender, &garbage] {
        vault.decide_point(gone.machine, gone.seq, AT_ONCE, "eva").await.unwrap();
    }
    let away = test.path.parent().unwrap().join("away");
    std::fs::create_dir(&away).unwrap();
    let folders = ["points", "open"];
    let move_away = || {
        for folder in folders {
            let from = test.path.join(format!("{folder}/{}", borrower.machine));
            std::fs::rename(from, away.join(folder)).unwrap();
        }
    };
    let put_back = || {
        for folder in folders {
            let to = test.path.join(format!("{folder}/{}", borrower.machine));
            std::fs::rename(away.join(folder), to).unwrap();
        }
    };
    let catalogued = [&lender, &borrower, &garbage].map(|point| (point.machine, vec![point.seq]));
    let options =
        || CollectOptions { catalogued: catalogued.clone().into(), ..CollectOptions::new(Utc::now()) };
    let is_held = |report: &CollectionReport| {
        let held: Vec<_> = report.held.iter().map(|(machine, _)| *machine).collect();
        held == [borrower.machine] && report.deleted_segments == 0
    };
    move_away();
    let report = collect_garbage(&vault, options(), |_| {}).await.unwrap();
    assert!(is_held(&report) && report.condemned_segments == 0, "{report:?}");
    put_back();
    restore_disk(&test.reopen().await.unwrap(), &borrower, "vda", &image).await;
    // Lost while a collection is under way.
    let mut run = vault.begin_collection(options()).await.unwrap();
    run.look(|_| {}).await.unwrap();
    run.condemn().await.unwrap();
    move_away();
    run.look_again().await.unwrap();
    let report = run.sweep().await.unwrap();
    assert!(is_held(&report) && report.condemned_segments > 0, "{report:?}");
    put_back();
    let report = collect_garbage(&vault, options(), |_| {}).await.unwrap();
    assert!(report.held.is_empty() && report.deleted_segments > 0, "{report:?}");
    restore_disk(&test.reopen().await.unwrap(), &borrower, "vda", &image).await;
}

/// A little of what was condemned is needed after all: it stays condemned, in a set of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_of_which_a_little_is_needed_is_forgotten() {
    let image = Image::noise(13, 4 * MIB);
    let test = TestVault::new().await;
    let vault = test.vault.deduplicating(samples());
    let lender = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let mut garbage = Vec::new();
    for seed in 0..12 {
        let image = Image::noise(100 + seed, MIB / 4);
        garbage.push(back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap());
    }
    let borrower = Uuid::new_v4();
    let backup = begin(&vault, request(borrower, &[("sda", &image)])).await.unwrap();
    for gone in garbage.iter().chain([&lender]) {
        vault.decide_point(gone.machine, gone.seq, AT_ONCE, "eva").await.unwrap();
    }
    let sets = || {
        let objects = test.objects().into_iter().filter(|name| name.ends_with(".set"));
        let size = |name: &String| std::fs::metadata(test.path.join(name)).unwrap().len();
        objects.map(|name| (size(&name), name)).collect::<Vec<_>>()
    };
    assert_eq!(collect(&vault).await.waiting_for, [(borrower, backup.seq())]);
    let whole = sets();
    send_changes(&backup, "sda", &image).await.unwrap();
    let borrowed = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
    assert!(borrowed.disks[0].stored_bytes < MIB as u64 / 4, "{borrowed:?}");
    // As long as a backup that began before the new set is under way, the old one is remembered.
    let other = Uuid::new_v4();
    let late = begin(&vault, request(other, &[("sda", &image)])).await.unwrap();
    let report = collect(&vault).await;
    assert!(report.deleted_segments >= 12, "{report:?}");
    let both = sets();
    assert!(both.len() == 2 && both[0] == whole[0] && both[1].0 + 12 * 32 <= both[0].0, "{both:?}");
    assert_eq!(collect(&vault).await.deleted_segments, 0);
    assert_eq!(sets(), both);
    vault.conclude(other, late.seq(), "given up").await.unwrap();
    for _ in 0..3 {
        collect(&vault).await;
        assert_eq!(sets(), both[1..], "the old one is forgotten, and that is all");
    }

    // Nobody takes it over.
    let point = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    assert!(point.disks[0].stored_bytes > 3 * MIB as u64, "{point:?}");
    restore_disk(&test.reopen().await.unwrap(), &borrowed, "sda", &image).await;
    vault.decide_point(borrower, borrowed.seq, AT_ONCE, "eva").await.unwrap();
    assert!(collect(&vault).await.deleted_segments > 0);
    assert!(sets().is_empty());
}

/// What was acknowledged and is lent is not sent again by the next attempt, unless the lender's was collected in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_attempt_takes_over_what_was_borrowed() {
    let image = Image::noise(7, 5 * MIB);
    for is_collected in [false, true] {
        let test = TestVault::new().await;
        let vault = test.vault.deduplicating(samples());
        let one = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
        let machine = Uuid::new_v4();
        let lost = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
        send_changes(&lost, "sda", &image).await.unwrap();
        lost.flush().await.unwrap();
        vault.conclude(machine, lost.seq(), "lost").await.unwrap();
        if is_collected {
            vault.decide_point(one.machine, one.seq, AT_ONCE, "eva").await.unwrap();
            let young = CollectOptions::new(Utc::now());
            assert!(collect_garbage(&vault, young, |_| {}).await.unwrap().deleted_segments > 0);
        }
        let reopened = test.reopen().await.unwrap();
        // In memory, or not.
        for vault in [&vault, &reopened] {
            let second = begin(vault, request(machine, &[("sda", &image)])).await.unwrap();
            let known = read_map(&second, "sda", MapLayer::Overlay).await.unwrap();
            assert_eq!(known.len(), if is_collected { 0 } else { image.blocks() });
            vault.conclude(machine, second.seq(), "lost too").await.unwrap();
        }
        let point = back_up(&reopened, machine, &[("sda", &image)]).await.unwrap();
        assert!(
            point.disks[0].sent_bytes >= image.size_bytes(),
            "what was taken over counts as sent: {point:?}"
        );
        restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
    }
}

/// What the lender's disk lost since is sent again, however long ago it was found to be true.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_borrowed_is_looked_at_again_by_a_later_attempt() {
    let image = Image::noise(9, 5 * MIB);
    let test = TestVault::new().await;
    let vault = test.vault.deduplicating(samples());
    let one = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let machine = Uuid::new_v4();
    let lost = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&lost, "sda", &image).await.unwrap();
    lost.flush().await.unwrap();
    vault.conclude(machine, lost.seq(), "lost").await.unwrap();
    let name = format!("seg/{}/{:020}/{:08}.0", one.machine, one.seq, 0);
    let mut bytes = std::fs::read(test.path.join(&name)).unwrap();
    let regions = Anatomist::new(&test.path, &test.key_path).regions(&name, &bytes);
    let cells: Vec<_> = regions.iter().filter(|(region, _)| *region == Region::DataCell).collect();
    bytes[cells[17].1.start + 100] ^= 1;
    std::fs::write(test.path.join(&name), bytes).unwrap();

    let reopened = test.reopen().await.unwrap();
    let second = begin(&reopened, request(machine, &[("sda", &image)])).await.unwrap();
    let known = read_map(&second, "sda", MapLayer::Overlay).await.unwrap();
    assert_eq!(image.blocks() - known.len(), 32, "all but the blocks of that cell");
    let point = finish(&second, &[("sda", &image)]).await.unwrap();
    restore_disk(&reopened, &point, "sda", &image).await;
}

/// Damage is never lent; told, it is told of all who need it; and a full backup stores anew only what is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_not_borrowed() {
    let image = Image::noise(8, 6 * MIB);
    let (test, vault, [one, two]) = lent(&image).await;
    let name = format!("seg/{}/{:020}/00000000.0", one.machine, one.seq);
    let path = test.path.join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    let regions = Anatomist::new(&test.path, &test.key_path).regions(&name, &bytes);
    let cells: Vec<_> = regions.iter().filter(|(region, _)| *region == Region::DataCell).collect();
    bytes[cells[17].1.start + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let report =
        vault.verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await.unwrap();
    let told: Vec<_> =
        report.findings.iter().map(|finding| (finding.machine, finding.point.clone())).collect();
    for point in [&one, &two] {
        assert!(restore(&vault, point, &point.disks[0].name).await.is_err());
        let of = |(machine, damaged): &&(Uuid, _)| *machine == point.machine && Option::is_some(damaged);
        let told: Vec<_> = told.iter().filter(of).collect();
        let [(_, Some(damaged))] = &*told else { panic!("{report:?}") };
        assert_eq!((damaged.seq, damaged.disk.as_deref()), (point.seq, Some(&*point.disks[0].name)));
        assert!(damaged.ranges.iter().eq([&(17 * 131_072..18 * 131_072)]), "{damaged:?}");
    }
    assert!(report.read_segments <= 3, "what is lent is read once for all who borrow it: {report:?}");

    let three = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    assert!(three.disks[0].stored_bytes < MIB as u64 / 5, "one cell: {three:?}");
    restore_disk(&vault, &three, "sda", &image).await;
    for healed in [&one, &two] {
        let name = &*healed.disks[0].name;
        let full = BeginBackup { damaged: vec![healed.seq], ..request(healed.machine, &[(name, &image)]) };
        let point = finish(&begin(&vault, full).await.unwrap(), &[(name, &image)]).await.unwrap();
        assert!(point.disks[0].stored_bytes < MIB as u64 / 5, "{point:?}");
        restore_disk(&test.reopen().await.unwrap(), &point, name, &image).await;
    }
    assert_eq!(good_points(&vault, two.machine).await.len(), 2);
}

/// A lender's segment that is lost is missed before a point is made, and by a look at the structure.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_segment_is_missed_by_its_borrowers() {
    let mut image = Image::noise(9, 2 * MIB);
    let (test, vault, [one, two]) = lent(&image).await;
    let segment = test.path.join(format!("seg/{}/{:020}/00000000.0", one.machine, one.seq));
    std::fs::remove_file(segment).unwrap();
    let report =
        vault.verify(VerifyScope::Vault, VerifyDepth::Structure, VerifyPace::Full, |_| {}).await.unwrap();
    let damaged: Vec<_> = report.damaged.keys().copied().collect();
    assert!(damaged.contains(&one.machine) && damaged.contains(&two.machine), "{report:?}");
    // The gateway has its directory in memory still: that does not count.
    image.change(10, 3);
    let next = back_up(&vault, two.machine, &[("vda", &image)]).await.unwrap();
    restore_disk(&test.reopen().await.unwrap(), &next, "vda", &image).await;
    assert!(next.disks[0].stored_bytes > MIB as u64, "a full one: {next:?}");
}

/// A storage that once was too slow is not waited for again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_too_slow_is_waited_for_once() {
    let image = Image::noise(14, 72 * MIB);
    let test = TestVault::new().await;
    back_up(&test.vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let slow = Faulty::new(&test.path, Fault::Stuck, "seg/", 0, 0);
    let vault = test.open_through(slow.clone()).await.deduplicating(samples());
    vault.learn_samples(|_| {}).await.unwrap();
    // From the first segment and from the second, in turns: no two can be read together.
    let mut mixed = Image(Vec::new());
    for cell in 0..16 {
        let from = cell / 2 * (MIB / 8) + if cell % 2 == 0 { MIB } else { 40 * MIB };
        mixed.0.extend_from_slice(&image.0[from..][..MIB / 8]);
    }
    let backup = begin(&vault, request(Uuid::new_v4(), &[("sda", &mixed)])).await.unwrap();
    let blocks: Vec<usize> = (0..mixed.blocks()).collect();
    let (first, second) = blocks.split_at(blocks.len() / 2);
    push_blocks(&backup, "sda", &mixed, first).await.unwrap();
    slow.strike();
    let started = Instant::now();
    push_blocks(&backup, "sda", &mixed, second).await.unwrap();
    let taken = started.elapsed();
    assert!(taken > Duration::from_secs(9), "nothing of it was known: {taken:?}");
    assert!(taken < Duration::from_secs(25), "{taken:?}");
}
