//! A segment and what collections left of it: as long as one of them has what a restore needs, it restores.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::Utc;
use holdfast_vault_engine::{
    ClockTrust, CollectOptions, Compaction, Point, VaultError, VerifyDepth, VerifyPace, VerifyProgress,
    VerifyReport, VerifyScope,
};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::compact::flip_below;
use super::support::anatomy::{Anatomist, Region};
use super::support::disk::Disk;
use super::support::faulty::{Fault, Faulty};
use super::support::{Image, TestVault, back_up, restore, restore_disk};
use crate::support::garbage::collect_garbage;

/// A point, and the segments that it needs, of which three generations have what it needs.
struct Copies {
    test: TestVault,
    machine: Uuid,
    point: Point,
    image: Image,
    /// By name without the generation.
    segments: Vec<(String, [Vec<u8>; 3])>,
}

impl Copies {
    /// All of them are there, as when nothing that is condemned was deleted yet.
    async fn new() -> Self {
        let test = TestVault::new().await;
        let machine = Uuid::new_v4();
        let mut image = Image::noise(1, 4 << 20);
        let mut last = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for round in 0..6 {
            image.change(round, 250);
            let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
            let old = std::mem::replace(&mut last, point);
            test.vault.decide_point(machine, old.seq, AT_ONCE, "eva").await.unwrap();
            for name in test.objects().into_iter().filter(|name| name.starts_with("seg/")) {
                all.insert(name.clone(), std::fs::read(test.path.join(&name)).unwrap());
            }
            let options = CollectOptions {
                clock: ClockTrust::Trusted,
                compaction: Compaction::All,
                ..CollectOptions::new(Utc::now())
            };
            collect_garbage(&test.vault, options, |_| {}).await.unwrap();
        }
        let is_there = |name: &String| test.path.join(name).try_exists().unwrap();
        let needed = test.objects().into_iter().filter(|name| name.starts_with("seg/"));
        let needed: Vec<String> =
            needed.filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned())).collect();
        let mut segments = Vec::new();
        for segment in needed {
            for (name, bytes) in all.iter().filter(|(name, _)| name.starts_with(&segment) && !is_there(name))
            {
                std::fs::write(test.path.join(name), bytes).unwrap();
            }
            for later in 3..10 {
                let _ = std::fs::remove_file(test.path.join(format!("{segment}.{later}")));
            }
            let read = |generation| std::fs::read(test.path.join(format!("{segment}.{generation}"))).ok();
            if let (Some(first), Some(second), Some(third)) = (read(0), read(1), read(2)) {
                segments.push((segment, [first, second, third]));
            }
        }
        assert!(!segments.is_empty(), "{:?}", test.objects());
        Self { test, machine, point: last, image, segments }
    }

    fn path(&self, segment: &str, generation: usize) -> PathBuf {
        self.test.path.join(format!("{segment}.{generation}"))
    }

    /// Leaves so much of the generations of a segment.
    fn leave(&self, segment: &str, generations: [Option<&[u8]>; 3]) {
        for (generation, bytes) in generations.into_iter().enumerate() {
            let path = self.path(segment, generation);
            let _ = std::fs::remove_file(&path);
            if let Some(bytes) = bytes {
                std::fs::write(path, bytes).unwrap();
            }
        }
    }

    async fn restores(&self) -> Result<(), VaultError> {
        let restored = restore(&self.test.reopen().await.unwrap(), &self.point, "sda").await?;
        assert!(restored == self.image, "WRONG BYTES");
        Ok(())
    }

    async fn verify(&self, depth: VerifyDepth) -> VerifyReport {
        let vault = self.test.reopen().await.unwrap();
        vault.verify(VerifyScope::Machine(self.machine), depth, VerifyPace::Full, |_| {}).await.unwrap()
    }

    /// A generation of a segment, harmed in each of its few regions and in a third of its cells: each cell in one of the generations, and of
    /// another segment in another one.
    fn harmed(&self, segment: &str, generation: usize, bytes: &[u8]) -> Vec<Vec<u8>> {
        let name = format!("{segment}.{generation}");
        let anatomist = Anatomist::new(&self.test.path, &self.test.key_path);
        let regions = anatomist.regions(&name, bytes).into_iter().filter(|(_, range)| !range.is_empty());
        let turn = generation + segment.bytes().map(usize::from).sum::<usize>();
        let is_few =
            |region| matches!(region, Region::Header | Region::Table | Region::Body | Region::Footer);
        let mut harmed: Vec<Vec<u8>> = regions
            .enumerate()
            .filter(|(at, (region, _))| is_few(*region) || (at + turn).is_multiple_of(3))
            .map(|(_, (_, range))| {
                let mut harmed = bytes.to_vec();
                harmed[(range.start + range.end) / 2] ^= 1;
                harmed
            })
            .collect();
        harmed.push(bytes[..bytes.len() / 2].to_vec());
        harmed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_intact_is_enough() {
    let copies = Copies::new().await;
    copies.restores().await.unwrap();
    for (segment, [first, second, third]) in &copies.segments {
        let (mut none, mut cases) = (0, 0);
        for (generation, whole) in [first, second, third].into_iter().enumerate() {
            for harmed in copies.harmed(segment, generation, whole) {
                for gone in (0..3).filter(|gone| *gone != generation) {
                    let mut left = [first, second, third].map(|whole| Some(&**whole));
                    left[generation] = Some(&harmed);
                    left[gone] = None;
                    copies.leave(segment, left);
                    copies.restores().await.unwrap();
                    cases += 1;
                }
                copies.leave(segment, [None; 3]);
                std::fs::write(copies.path(segment, generation), &harmed).unwrap();
                none += usize::from(copies.restores().await.is_err());
            }
        }
        assert!(none > cases / 6, "of {cases} harms {none} did something");
        copies.leave(segment, [Some(first), Some(second), Some(third)]);
    }
}

/// What was listed is gone when it is read, since it was replaced in between.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_replaced_while_it_is_looked_for_is_found() {
    let copies = Copies::new().await;
    for (segment, [first, second, third]) in copies.segments.clone() {
        copies.leave(&segment, [Some(&first), None, None]);
        let faulty = Faulty::new(&copies.test.path, Fault::Lost, "seg/", usize::MAX, 0);
        let vault = copies.test.open_through(faulty.clone()).await;
        restore_disk(&vault, &copies.point, "sda", &copies.image).await;
        // Listed is the second, which goes then.
        copies.leave(&segment, [None, Some(&second), None]);
        let (went, came, bytes) = (copies.path(&segment, 1), copies.path(&segment, 2), third.clone());
        faulty.after_list(move || {
            // As a collection does it: whole at once, and before the other one goes.
            let staged = came.with_extension("staged");
            std::fs::write(&staged, bytes).unwrap();
            std::fs::rename(staged, came).unwrap();
            std::fs::remove_file(went).unwrap();
        });
        restore_disk(&vault, &copies.point, "sda", &copies.image).await;
        assert!(!copies.path(&segment, 1).try_exists().unwrap(), "nothing was listed");
        copies.leave(&segment, [Some(&first), Some(&second), Some(&third)]);
    }
}

/// Restores need it no more: it is told, and no point is called damaged for it.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_another_one_makes_up_for_is_of_no_point() {
    let copies = Copies::new().await;
    assert!(copies.verify(VerifyDepth::ReadData).await.findings.is_empty());
    for (segment, [first, second, third]) in &copies.segments {
        let wholes = [first, second, third];
        for (generation, whole) in wholes.into_iter().enumerate() {
            for harmed in copies.harmed(segment, generation, whole) {
                let mut left = wholes.map(|whole| Some(&**whole));
                left[generation] = Some(&harmed);
                copies.leave(segment, left);
                let report = copies.verify(VerifyDepth::ReadData).await;
                assert!(!report.findings.is_empty(), "{segment}.{generation}");
                assert!(report.damaged.is_empty(), "{segment}.{generation}: {report:?}");

                let mut left = [None; 3];
                left[generation] = Some(&*harmed);
                copies.leave(segment, left);
                let report = copies.verify(VerifyDepth::ReadData).await;
                let is_lost = copies.restores().await.is_err();
                assert_eq!(!report.damaged.is_empty(), is_lost, "{segment}.{generation}: {report:?}");
            }
        }
        copies.leave(segment, wholes.map(|whole| Some(&**whole)));
    }
}

/// One is replaced while it is verified: that is no damage, and what took its place is read.
#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_place_meanwhile_is_verified_too() {
    let copies = Copies::new().await;
    // Others are read before.
    assert!(copies.segments.len() > 1);
    let (segment, [first, second, third]) = copies.segments.last().unwrap();
    for harmed in std::iter::once(second.clone()).chain(copies.harmed(segment, 1, second)) {
        copies.leave(segment, [Some(first), None, None]);
        let (vault, mut went) = (copies.test.reopen().await.unwrap(), false);
        let tell = |progress: VerifyProgress| {
            if progress.segments_done > 0 && !std::mem::replace(&mut went, true) {
                copies.leave(segment, [None, Some(&harmed), None]);
            }
        };
        let depth = VerifyDepth::ReadData;
        let report = vault.verify(VerifyScope::Vault, depth, VerifyPace::Gentle, tell).await.unwrap();
        assert_eq!(report.damaged.is_empty(), copies.restores().await.is_ok(), "{report:?}");
        assert_eq!(report.findings.is_empty(), harmed == *second, "{report:?}");
    }
    copies.leave(segment, [Some(first), Some(second), Some(third)]);
}

/// Whether a delta reads is found out more than once: a point of which one does not is not sound.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_goes_while_it_is_verified_is_told() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(1, 4 << 20);
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    image.change(1, 3);
    let second = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let path = |point: &Point| test.path.join(format!("seg/{machine}/{:020}/00000000.0", point.seq));
    // A cell of the first, so that all are looked up.
    let mut bytes = std::fs::read(path(&first)).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(path(&first), bytes).unwrap();
    let tell = |progress: VerifyProgress| {
        if progress.segments_done == 2 {
            std::fs::write(path(&second), b"junk").unwrap();
        }
    };
    let vault = test.reopen().await.unwrap();
    let report =
        vault.verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, tell).await.unwrap();
    let damaged: Vec<u64> = report.damaged[&machine].keys().copied().collect();
    assert_eq!(damaged, [first.seq, second.seq]);
    let told = report.findings.iter().filter_map(|finding| finding.point.as_ref());
    let ranges = told.filter(|point| point.seq == second.seq).flat_map(|point| &point.ranges);
    assert!(ranges.eq([&(0..image.size_bytes())]), "{report:?}");
}

/// What was read or written lately is in memory, whatever the disk has.
#[tokio::test(flavor = "multi_thread")]
async fn verification_reads_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::make(dir.path(), &["mkfs.ext4", "-q", "-F"]) else { return };
    let path = disk.mount_point.join("vault");
    std::fs::create_dir(&path).unwrap();
    let test = TestVault::at(dir, path.clone()).await;
    let (machine, image) = (Uuid::new_v4(), Image::noise(1, 4 << 20));
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
    let segment = std::fs::read(path.join(format!("seg/{machine}/{:020}/00000000.0", point.seq))).unwrap();
    flip_below(&disk.backing, &segment);
    let vault = test.reopen().await.unwrap();
    let every = VerifyDepth::Sample { per_10_000: 10_000, seed: 1 };
    let report = vault.verify(VerifyScope::Vault, every, VerifyPace::Full, |_| {}).await.unwrap();
    assert!(report.damaged[&machine].contains_key(&point.seq), "{report:?}");
    drop(disk);
}
