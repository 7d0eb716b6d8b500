//! A segment and what collections left of it: as long as one of them has what a restore needs, it restores.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::Utc;
use holdfast_vault_engine::{ClockTrust, CollectOptions, Compaction, Point, VaultError};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::anatomy::Anatomist;
use super::support::faulty::{Fault, Faulty};
use super::support::{Image, TestVault, back_up, restore, restore_disk};

/// A point, and the segments that it needs, of which three generations have what it needs.
struct Copies {
    test: TestVault,
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
            test.vault.collect(options, |_| {}).await.unwrap();
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
        Self { test, point: last, image, segments }
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

    /// An object once for each of its regions, harmed there.
    fn harmed(&self, name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
        let anatomist = Anatomist::new(&self.test.path, &self.test.key_path);
        let regions = anatomist.regions(name, bytes).into_iter().filter(|(_, range)| !range.is_empty());
        let mut harmed: Vec<Vec<u8>> = regions
            .map(|(_, range)| {
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
            for harmed in copies.harmed(&format!("{segment}.{generation}"), whole) {
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
