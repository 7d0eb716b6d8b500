//! Segments of which most is dead are replaced by what is needed of them, and nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    ClockTrust, CollectOptions, CollectionReport, Compaction, Point, Samples, Vault, VaultError, VerifyDepth,
    VerifyPace, VerifyReport, VerifyScope,
};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::anatomy::{Anatomist, Region};
use super::support::disk::Disk;
use super::support::faulty::{Fault, Faulty};
use super::support::image::Random;
use super::support::{
    Image, TestVault, back_up, begin, finish, request, restore, restore_disk, send_changes,
};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;

fn options() -> CollectOptions {
    CollectOptions {
        clock: ClockTrust::Trusted,
        compaction: Compaction::All,
        ..CollectOptions::new(Utc::now())
    }
}

async fn collect(vault: &Vault) -> CollectionReport {
    let report = collect_garbage(vault, options(), |_| {}).await.unwrap();
    assert!(report.held.is_empty(), "{report:?}");
    report
}

async fn verify(vault: &Vault) -> VerifyReport {
    vault.verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await.unwrap()
}

/// A machine whose first backup is still needed, but less than half of its blocks.
struct Worn {
    test: TestVault,
    machine: Uuid,
    points: Vec<(Point, Image)>,
}

impl Worn {
    async fn new() -> Self {
        Self::of(TestVault::new().await).await
    }

    async fn of(test: TestVault) -> Self {
        let mut worn = Self { test, machine: Uuid::new_v4(), points: Vec::new() };
        let mut image = Image::noise(1, 4 * MIB);
        // Every third cell compresses.
        for cell in (0..32).step_by(3) {
            image.0[cell * MIB / 8..][..MIB / 8].fill(u8::try_from(cell + 1).unwrap());
        }
        worn.back_up(&image).await;
        for round in 0..3 {
            image.change(round, 300);
            worn.back_up(&image).await;
        }
        worn
    }

    async fn back_up(&mut self, image: &Image) {
        let point = back_up(&self.test.vault, self.machine, &[("sda", image)]).await.unwrap();
        self.points.push((point, image.clone()));
    }

    async fn delete(&mut self, which: usize) {
        let (point, _) = self.points.remove(which);
        self.test.vault.decide_point(self.machine, point.seq, AT_ONCE, "eva").await.unwrap();
    }

    async fn check(&self, vault: &Vault) {
        for (point, image) in &self.points {
            restore_disk(vault, point, "sda", image).await;
        }
    }

    fn replacements(&self) -> usize {
        self.test.objects().iter().filter(|name| name.starts_with("seg/") && !name.ends_with(".0")).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_blocks_take_no_room() {
    let mut worn = Worn::new().await;
    assert_eq!(collect(&worn.test.vault).await.compacted_segments, 0, "all of it is needed");
    // It read every directory, and never hears of what another one does.
    let reader = worn.test.reopen().await.unwrap();
    worn.check(&reader).await;
    for _ in 0..3 {
        worn.delete(0).await;
    }
    let before = worn.test.size();
    let plan = worn.test.vault.plan_collection(options(), |_| {}).await.unwrap();
    assert_eq!(worn.replacements(), 0, "a plan writes nothing");
    let mut told = Vec::new();
    let report = collect_garbage(&worn.test.vault, options(), |progress| told.push(progress.compacted_bytes))
        .await
        .unwrap();
    assert_eq!((report.compacted_segments, plan.compacted_segments), (2, 2), "{report:?}");
    assert_eq!(told.last(), Some(&report.compacted_bytes));
    let off = report.compacted_bytes.abs_diff(plan.compacted_bytes);
    assert!(off * 20 < report.compacted_bytes, "planned {}, {report:?}", plan.compacted_bytes);
    let freed = before - worn.test.size();
    assert!(
        freed.abs_diff(report.compacted_bytes + report.condemned_bytes) < 16 << 10,
        "{freed}, {report:?}"
    );
    assert!(report.compacted_bytes > 3 * MIB as u64 / 2, "{report:?}");
    // What one point needs is all that is left, and a little metadata.
    assert!(worn.test.size() < 4 * MIB as u64 * 11 / 10, "{}", worn.test.size());

    worn.check(&reader).await;
    worn.check(&worn.test.vault).await;
    let vault = worn.test.reopen().await.unwrap();
    worn.check(&vault).await;
    let report = verify(&vault).await;
    assert!(report.findings.is_empty() && report.read_segments > 2, "{report:?}");
    let again = collect(&vault).await;
    assert_eq!((again.compacted_segments, again.condemned_segments), (0, 0), "{again:?}");

    // Backups build upon it; what is left wears off as well.
    for round in 10..14 {
        let mut image = worn.points.last().unwrap().1.clone();
        image.change(round, 250);
        worn.back_up(&image).await;
    }
    for _ in 0..4 {
        worn.delete(0).await;
    }
    let report = collect(&worn.test.vault).await;
    assert!(report.compacted_segments > 0, "{report:?}");
    let twice = |name: &String| name.starts_with("seg/") && name.ends_with(".2");
    assert!(worn.test.objects().iter().any(twice), "{:?}", worn.test.objects());
    worn.check(&reader).await;
    worn.check(&worn.test.reopen().await.unwrap()).await;
    let report = verify(&worn.test.vault).await;
    assert!(report.findings.is_empty(), "{report:?}");
}

/// It is waited for, as for anything else that is condemned, and keeps what it took over.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_began_before_is_waited_for() {
    let mut worn = Worn::new().await;
    for _ in 0..3 {
        worn.delete(0).await;
    }
    let mut image = worn.points[0].1.clone();
    image.change(77, 40);
    let late = begin(&worn.test.vault, request(worn.machine, &[("sda", &image)])).await.unwrap();
    send_changes(&late, "sda", &image).await.unwrap();
    let size = worn.test.size();
    let report = collect(&worn.test.vault).await;
    assert_eq!(report.waiting_for, [(worn.machine, late.seq())]);
    assert!(report.compacted_segments == 2 && report.deleted_segments == 0, "{report:?}");
    assert!(worn.test.size() > size);
    let report = collect(&worn.test.vault).await;
    assert_eq!((report.compacted_segments, report.deleted_segments), (0, 0), "not once more: {report:?}");
    let point = finish(&late, &[("sda", &image)]).await.unwrap();
    worn.points.push((point, image));
    let report = collect(&worn.test.vault).await;
    assert!(report.deleted_segments >= 2, "{report:?}");
    assert!(worn.test.size() < size - MIB as u64);
    worn.check(&worn.test.reopen().await.unwrap()).await;
}

/// Whoever borrows needs whole cells.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lent_stays_whole() {
    let mut worn = Worn::new().await;
    let lent = worn.points[0].1.clone();
    let vault = worn.test.vault.deduplicating(Arc::new(Samples::within(1 << 20)));
    vault.learn_samples(|_| {}).await.unwrap();
    for _ in 0..3 {
        worn.delete(0).await;
    }
    // A clone of what is about to be compacted, sent after that was decided and before it was condemned.
    let mut run = vault.begin_collection(options()).await.unwrap();
    run.look(|_| {}).await.unwrap();
    run.compact(|_| {}).await.unwrap();
    let clone = Uuid::new_v4();
    let borrower = begin(&vault, request(clone, &[("sda", &lent)])).await.unwrap();
    send_changes(&borrower, "sda", &lent).await.unwrap();
    run.condemn().await.unwrap();
    let borrowed = borrower.prepare(&[]).await.unwrap().commit().await.unwrap();
    assert!(borrowed.disks[0].stored_bytes < MIB as u64, "{borrowed:?}");
    run.look_again().await.unwrap();
    let report = run.sweep().await.unwrap();
    assert_eq!(report.compacted_segments, 2);
    restore_disk(&worn.test.reopen().await.unwrap(), &borrowed, "sda", &lent).await;
    worn.check(&worn.test.reopen().await.unwrap()).await;
    assert_eq!(worn.replacements(), 2);
    // As long as it is needed; nothing is rewritten in vain meanwhile.
    for _ in 0..2 {
        let report = collect(&vault).await;
        assert_eq!((report.compacted_segments, report.deleted_segments), (0, 0), "{report:?}");
    }
    vault.decide_point(clone, borrowed.seq, AT_ONCE, "eva").await.unwrap();
    let size = worn.test.size();
    for _ in 0..2 {
        collect(&vault).await;
    }
    assert!(worn.test.size() < size - MIB as u64);
    worn.check(&worn.test.reopen().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lent_is_not_compacted() {
    let mut worn = Worn::new().await;
    let vault = worn.test.vault.deduplicating(Arc::new(Samples::within(1 << 20)));
    vault.learn_samples(|_| {}).await.unwrap();
    let (lent, image) = worn.points[0].clone();
    let borrowed = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    assert!(borrowed.disks[0].stored_bytes < MIB as u64, "{borrowed:?}");
    for _ in 0..3 {
        worn.delete(0).await;
    }
    collect(&vault).await;
    let of_lent = format!("seg/{}/{:020}/", worn.machine, lent.seq);
    let objects = worn.test.objects();
    let segments: Vec<_> = objects.iter().filter(|name| name.starts_with(&of_lent)).collect();
    assert!(!segments.is_empty() && segments.iter().all(|name| name.ends_with(".0")), "{segments:?}");
    restore_disk(&worn.test.reopen().await.unwrap(), &borrowed, "sda", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_anywhere_is_finished() {
    let mut changes = 0;
    loop {
        let mut worn = Worn::new().await;
        for _ in 0..3 {
            worn.delete(0).await;
        }
        let faulty = Faulty::new(&worn.test.path, Fault::Stopped, "", changes, usize::MAX);
        let vault = worn.test.open_through(faulty).await;
        let killed = collect_garbage(&vault, options(), |_| {}).await;
        let vault = worn.test.reopen().await.unwrap();
        worn.check(&vault).await;
        let mut image = worn.points[0].1.clone();
        image.change(9, 5);
        worn.back_up(&image).await;
        for _ in 0..2 {
            collect(&vault).await;
        }
        worn.check(&worn.test.reopen().await.unwrap()).await;
        let plan = vault.plan_collection(options(), |_| {}).await.unwrap();
        assert_eq!((plan.compacted_segments, plan.condemned_segments), (0, 0), "after {changes} changes");
        assert!(worn.test.size() < 5 * MIB as u64, "after {changes} changes: {}", worn.test.size());
        match killed {
            Ok(_) => break,
            Err(VaultError::Storage { .. }) => changes += 1,
            Err(error) => panic!("after {changes} changes: {error:?}"),
        }
    }
    assert!(changes > 6, "it was killed {changes} times only");
}

/// What it frees otherwise is more important.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_the_rest_is_collected() {
    let mut worn = Worn::new().await;
    for _ in 0..3 {
        worn.delete(0).await;
    }
    let faulty = Faulty::new(&worn.test.path, Fault::NoSpace, "seg/", 1, usize::MAX);
    let vault = worn.test.open_through(faulty).await;
    let report = collect_garbage(&vault, options(), |_| {}).await.unwrap();
    assert_eq!(report.compacted_segments, 1, "{report:?}");
    assert!(report.deleted_segments > 0, "{report:?}");
    worn.check(&worn.test.reopen().await.unwrap()).await;
    let report = collect(&worn.test.vault).await;
    assert_eq!(report.compacted_segments, 1, "{report:?}");
    worn.check(&worn.test.reopen().await.unwrap()).await;
}

/// What is read back comes from the disk, not from the memory that it was written through: what the disk did not keep as it was
/// replaces nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_the_disk_lost_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::make(dir.path(), &["mkfs.ext4", "-q", "-F"]) else { return };
    let path = disk.mount_point.join("vault");
    std::fs::create_dir(&path).unwrap();
    let mut worn = Worn::of(TestVault::at(dir, path.clone()).await).await;
    for _ in 0..3 {
        worn.delete(0).await;
    }
    let late = Faulty::new(&path, Fault::Late(Duration::from_secs(10)), "seg/", 0, 1);
    let vault = worn.test.open_through(late.clone()).await;
    let collection = tokio::spawn(async move { collect_garbage(&vault, options(), |_| {}).await });
    late.struck().await;
    let written = tokio::time::timeout(Duration::from_secs(8), async {
        loop {
            let objects = worn.test.objects();
            match objects.into_iter().find(|name| name.starts_with("seg/") && name.ends_with(".1")) {
                Some(name) => break name,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    let written = written.await.unwrap();
    flip_below(&disk.backing, &std::fs::read(path.join(&written)).unwrap());
    let report = collection.await.unwrap().unwrap();
    assert_eq!(report.compacted_segments, 1, "the other one: {report:?}");
    let old = written.strip_suffix('1').unwrap();
    assert!(worn.test.objects().contains(&format!("{old}0")), "{:?}", worn.test.objects());
    worn.check(&worn.test.reopen().await.unwrap()).await;
    // Nor does it keep the machine's other segments from being compacted.
    for round in 10..14 {
        let mut image = worn.points.last().unwrap().1.clone();
        image.change(round, 250);
        worn.back_up(&image).await;
    }
    for _ in 0..4 {
        worn.delete(0).await;
    }
    let report = collect(&worn.test.reopen().await.unwrap()).await;
    assert!(report.compacted_segments > 0, "{report:?}");
    worn.check(&worn.test.reopen().await.unwrap()).await;
    drop(disk);
}

/// Flips a bit of a file where its disk has it, in blocks as small as a file system may have.
pub(crate) fn flip_below(backing: &Path, file: &[u8]) {
    const BLOCK: usize = 1024;
    let wanted = &file[file.len() / 2 / BLOCK * BLOCK..][..BLOCK];
    let disk = std::fs::File::options().read(true).write(true).open(backing).unwrap();
    let mut block = [0; BLOCK];
    let blocks = disk.metadata().unwrap().len() / BLOCK as u64;
    let at = (0..blocks).map(|block| block * BLOCK as u64).find(|at| {
        disk.read_exact_at(&mut block, *at).unwrap();
        block == wanted
    });
    disk.write_all_at(&[wanted[100] ^ 1], at.unwrap() + 100).unwrap();
    disk.sync_all().unwrap();
}

/// The wrong blocks in the place of what a collection left: no reader takes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_replacement_is_told() {
    let mut worn = Worn::new().await;
    for _ in 0..3 {
        worn.delete(0).await;
    }
    collect(&worn.test.vault).await;
    let (point, image) = worn.points[0].clone();
    let names: Vec<String> = worn
        .test
        .objects()
        .into_iter()
        .filter(|name| name.starts_with("seg/") && name.ends_with(".1"))
        .collect();
    assert_eq!(names.len(), 2);
    for name in &names {
        let path = worn.test.path.join(name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let at = bad.len() / 2;
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let vault = worn.test.reopen().await.unwrap();
        let error = restore(&vault, &point, "sda").await.unwrap_err();
        assert!(matches!(error, VaultError::DamagedRange { .. }), "{error:?}");
        let report = verify(&vault).await;
        let damaged = report.findings[0].point.clone().unwrap();
        assert_eq!((damaged.id, damaged.disk.as_deref()), (Some(point.id), Some("sda")));
        let lost: u64 = damaged.ranges.iter().map(|range| range.end - range.start).sum();
        assert!(lost > 0 && lost <= 128 << 10, "{report:?}");
        std::fs::remove_file(&path).unwrap();
        let vault = worn.test.reopen().await.unwrap();
        assert!(restore(&vault, &point, "sda").await.unwrap_err().is_damage());
        assert!(!verify(&vault).await.findings.is_empty());
        // The next backup heals.
        std::fs::write(&path, &good).unwrap();
    }
    worn.check(&worn.test.reopen().await.unwrap()).await;
    for name in &names {
        std::fs::remove_file(worn.test.path.join(name)).unwrap();
    }
    let vault = worn.test.reopen().await.unwrap();
    let healed = back_up(&vault, worn.machine, &[("sda", &image)]).await.unwrap();
    assert_eq!(healed.disks[0].changed_bytes, image.size_bytes(), "a full one");
    let vault = worn.test.reopen().await.unwrap();
    restore_disk(&vault, &healed, "sda", &image).await;
}

/// Every region of every replacement, and whatever is flipped there is told; wrong bytes are never restored.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bytes_of_a_replacement() {
    let mut worn = Worn::new().await;
    // A delta that is too small for the one below to be merged with it.
    let mut image = worn.points[3].1.clone();
    image.0[MIB..3 * MIB].fill(0);
    worn.back_up(&image).await;
    for _ in 0..4 {
        worn.delete(0).await;
    }
    collect(&worn.test.vault).await;
    let (point, image) = worn.points[0].clone();
    let anatomist = Anatomist::new(&worn.test.path, &worn.test.key_path);
    let mut random = Random(5);
    let mut tally: BTreeMap<Region, usize> = BTreeMap::new();
    let names =
        worn.test.objects().into_iter().filter(|name| name.starts_with("seg/") && name.ends_with(".1"));
    for name in names {
        let path = worn.test.path.join(&name);
        let good = std::fs::read(&path).unwrap();
        for (region, range) in anatomist.regions(&name, &good) {
            let some = (0..2).map(|_| range.start + random.below(range.len()));
            for at in [range.start, range.end - 1].into_iter().chain(some).collect::<BTreeSet<_>>() {
                let mut bad = good.clone();
                bad[at] ^= 1 << random.below(8);
                std::fs::write(&path, &bad).unwrap();
                let vault = worn.test.reopen().await.unwrap();
                match restore(&vault, &point, "sda").await {
                    Ok(restored) => assert!(restored == image, "WRONG BYTES: {name} {at}"),
                    Err(error) => assert!(error.is_damage(), "{error:?}"),
                }
                let report = verify(&vault).await;
                assert!(!report.findings.is_empty(), "{name} {region:?} {at}");
                *tally.entry(region).or_default() += 1;
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    let reached: BTreeSet<Region> = tally.keys().copied().collect();
    let all = [Region::Header, Region::KeptCell, Region::GoneCell, Region::MetaCell, Region::Table];
    let all = all.into_iter().chain([Region::Body, Region::Footer]);
    assert!(all.into_iter().all(|region| reached.contains(&region)), "{tally:?}");
}

/// Without `All`, every machine's turn comes once in seven collections.
#[tokio::test(flavor = "multi_thread")]
async fn every_machine_has_its_turn() {
    let mut worn = Worn::new().await;
    for _ in 0..3 {
        worn.delete(0).await;
    }
    let mut turns = Vec::new();
    for round in 0..14 {
        let options = CollectOptions::new(Utc::now() + TimeDelta::hours(round));
        let plan = worn.test.vault.plan_collection(options, |_| {}).await.unwrap();
        let options = CollectOptions::new(Utc::now() + TimeDelta::hours(round));
        let report = collect_garbage(&worn.test.vault, options, |_| {}).await.unwrap();
        assert_eq!(report.compacted_segments, plan.compacted_segments, "a plan knows whose turn it is");
        turns.push(report.compacted_segments);
    }
    assert_eq!(turns[..7].iter().sum::<u64>(), 2, "{turns:?}");
    assert_eq!(turns[7..].iter().sum::<u64>(), 0, "{turns:?}");
}
