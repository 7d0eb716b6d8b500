//! Stacks of deltas stay shallow, and every point goes on to restore.

use std::path::Path;

use holdfast_vault_engine::{BLOCK_SIZE, Point, VaultError, chain};
use proptest::prelude::*;
use uuid::Uuid;

use super::support::agent::changed_blocks;
use super::support::anatomy::{Anatomist, Region};
use super::support::faulty::{Fault, Faulty};
use super::support::image::{Random, extents};
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore, restore_disk, send_changes,
};

const MIB: usize = 1 << 20;
const MACHINE: Uuid = Uuid::from_u128(7);

/// A disk by one value per block; 0 are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model(Vec<u32>);

impl Model {
    fn image(&self) -> Image {
        let mut image = Image::zeros(self.0.len() * BLOCK_SIZE);
        for (block, value) in image.0.chunks_exact_mut(BLOCK_SIZE).zip(&self.0) {
            block.copy_from_slice(&value.to_le_bytes().repeat(BLOCK_SIZE / 4));
        }
        image
    }

    /// Some runs of blocks get values of this round, some zeros; sometimes the disk grows or shrinks.
    fn change(&mut self, random: &mut Random, round: u32) {
        match random.below(12) {
            0 => self.0.resize(self.0.len() + 1 + random.below(60), 0),
            1 if self.0.len() > 300 => self.0.truncate(self.0.len() - random.below(self.0.len() / 4)),
            _ => {}
        }
        // Mostly few, at times many.
        let most = [1, 2, 4, 10, 40][random.below(5)];
        for _ in 0..=random.below(most) {
            let first = random.below(self.0.len());
            let longest = [1, 2, 30][random.below(3)];
            let end = (first + 1 + random.below(longest)).min(self.0.len());
            let value = if random.below(4) == 0 { 0 } else { round };
            self.0[first..end].fill(value);
        }
    }

    /// What an agent sends over `base`, as pages: extents of zeros, and extents and blocks of each cell.
    fn sent_over(&self, base: &Self) -> usize {
        let differs = |block: &usize| base.0.get(*block) != Some(&self.0[*block]);
        let (zeros, data): (Vec<usize>, Vec<usize>) =
            (0..self.0.len()).filter(differs).partition(|block| self.0[*block] == 0);
        let cells = data.chunks(32).map(|cell| extents(cell).len()).sum::<usize>();
        (extents(&zeros).len() + cells) * 12 + data.len() * 8
    }
}

/// Looks at the deltas of points.
struct Stacks<'a> {
    anatomist: Anatomist,
    path: &'a Path,
    /// Bytes of the deltas that were written.
    written: u64,
    deepest: usize,
}

impl<'a> Stacks<'a> {
    fn new(test: &'a TestVault) -> Self {
        let anatomist = Anatomist::new(&test.path, &test.key_path);
        Self { anatomist, path: &test.path, written: 0, deepest: 0 }
    }

    /// Each delta must have about four times the bytes of the one above it: what is merged may split extents, so that it
    /// has up to twice as many as its parts.
    fn see(&mut self, point: &Point) {
        let stack = &point.disks[0].stack;
        let len = |delta| self.anatomist.pages_len(self.path, MACHINE, delta);
        let sizes: Vec<u64> = stack.iter().map(len).collect();
        assert!(sizes.windows(2).all(|pair| pair[0] * 2 <= pair[1]), "{sizes:?}");
        if stack[0].seq == point.seq {
            self.written += sizes[0];
        }
        self.deepest = self.deepest.max(stack.len());
    }
}

async fn two_hundred(seed: u64) {
    let test = TestVault::new().await;
    let mut stacks = Stacks::new(&test);
    let mut random = Random(seed);
    let mut model = Model((0..600).map(|block| block % 5).collect());
    let (mut models, mut sent) = (Vec::new(), model.sent_over(&Model::default()));
    for round in 1000..1201 {
        let point = back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap();
        stacks.see(&point);
        models.push(model.clone());
        model.change(&mut random, round);
        sent += model.sent_over(models.last().unwrap()) + 12;
    }
    let vault = test.reopen().await.unwrap();
    let points = good_points(&vault, MACHINE).await;
    assert_eq!(points.len(), models.len());
    for (point, model) in points.iter().zip(&models) {
        restore_disk(&vault, point, "sda", &model.image()).await;
    }
    let levels = u64::from(sent.ilog2() / 2 + 1);
    println!("sent {sent} bytes, wrote {}, {levels} levels, deepest {}", stacks.written, stacks.deepest);
    assert!(stacks.deepest > 2 && stacks.deepest <= 8, "{}", stacks.deepest);
    assert!(stacks.written <= 2 * sent as u64 * levels, "{} of {sent}", stacks.written);
}

/// What is cut off a disk is all that such a backup speaks of.
#[tokio::test]
async fn backups_of_a_disk_that_only_shrinks_are_merged() {
    let test = TestVault::new().await;
    let mut stacks = Stacks::new(&test);
    let mut model = Model((0..600).map(|block| block % 5).collect());
    for _ in 0..9 {
        let point = back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap();
        stacks.see(&point);
        restore_disk(&test.vault, &point, "sda", &model.image()).await;
        model.0.truncate(model.0.len() - 7);
    }
    assert!(stacks.deepest <= 3, "{}", stacks.deepest);
}

/// How many.
fn stacks() -> u32 {
    std::env::var("HOLDFAST_STACKS").map_or(1, |count| count.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: stacks(), max_shrink_iters: 0, ..ProptestConfig::default() })]

    /// `HOLDFAST_STACKS` times (1).
    #[test]
    fn two_hundred_incrementals(seed: u64) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(two_hundred(seed));
    }
}

/// Scattered blocks, each time slightly fewer than the last time, and slightly fewer than would be merged.
#[tokio::test(flavor = "multi_thread")]
async fn always_slightly_smaller() {
    let test = TestVault::new().await;
    let mut stacks = Stacks::new(&test);
    let mut random = Random(5);
    let mut model = Model(vec![1; 8192]);
    let mut sent = model.sent_over(&Model::default());
    stacks.see(&back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap());
    for count in (1..60).rev().chain([820, 200, 50, 12, 3, 800, 198, 49, 12, 3, 190, 47, 11, 190, 47, 11]) {
        let base = model.clone();
        for _ in 0..count {
            let at = random.below(model.0.len());
            model.0[at] += 1;
        }
        sent += model.sent_over(&base);
        stacks.see(&back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap());
    }
    let levels = u64::from(sent.ilog2() / 2 + 1);
    println!("sent {sent} bytes, wrote {}, deepest {}", stacks.written, stacks.deepest);
    assert!(stacks.deepest as u64 <= levels + 1, "{}", stacks.deepest);
    assert!(stacks.written <= 2 * sent as u64 * levels, "{} of {sent}", stacks.written);
    let point = good_points(&test.vault, MACHINE).await.pop().unwrap();
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &model.image()).await;
}

/// What was cut off lies under a delta that stays; when the disk has grown again, nothing of it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_survives_merging_until_the_bottom() {
    let test = TestVault::new().await;
    let stacks = Stacks::new(&test);
    let back_up =
        async |model: &Model| back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap();
    let mut model = Model((0..8192).map(|block| 1 + block % 2).collect());
    back_up(&model).await;
    model.0.truncate(6000);
    back_up(&model).await;
    // Merged with the cut, not with the bottom.
    model.0[10] = 9;
    let point = back_up(&model).await;
    assert_eq!(point.disks[0].stack.len(), 2);
    let newest = stacks.anatomist.delta_root(&test.path, MACHINE, &point.disks[0].stack[0]);
    assert_eq!(newest.extents, 2, "the changed block, and zeros over what was cut off");
    assert_eq!(newest.extent_pages[0].end_block, 8192);
    restore_disk(&test.vault, &point, "sda", &model.image()).await;
    model.0.resize(7000, 0);
    let point = back_up(&model).await;
    restore_disk(&test.vault, &point, "sda", &model.image()).await;
    // Many: merged with the bottom, which ends with the disk.
    for block in (0..7000).step_by(6) {
        model.0[block] = 10;
    }
    let point = back_up(&model).await;
    assert_eq!(point.disks[0].stack.len(), 1);
    let only = stacks.anatomist.delta_root(&test.path, MACHINE, &point.disks[0].stack[0]);
    for pages in [&only.extent_pages, &only.hash_pages] {
        assert_eq!((pages[0].first_block, pages.last().unwrap().end_block), (0, 7000));
    }
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &model.image()).await;
    // The map is that of the disk.
    let backup = begin(&test.vault, request(MACHINE, &[("sda", &model.image())])).await.unwrap();
    assert!(changed_blocks(&backup, "sda", &model.image()).await.unwrap().is_empty());
}

/// The storage is full at each write of a backup of several segments whose last one holds a merged delta, or an answer is lost: nothing
/// that was there is lost, and the next attempt goes on from what was durable and merges as well.
#[tokio::test(flavor = "multi_thread")]
async fn faults_in_a_merging_commit() {
    const CHANGED: usize = 34 * MIB;
    // What the first of them holds for certain.
    const SEGMENT: usize = 31 * MIB;
    let test = TestVault::new().await;
    let mut image = Image::noise(170, 40 * MIB);
    let mut truths = vec![image.clone()];
    back_up(&test.vault, MACHINE, &[("sda", &image)]).await.unwrap();
    let mut refused = Vec::new();
    for (fault, prefix, good, durable) in [
        (Fault::NoSpace, "", 0, 0),
        (Fault::NoSpace, "", 1, 0),
        (Fault::NoSpace, "", 2, SEGMENT),
        (Fault::NoSpace, "", 3, CHANGED),
        (Fault::AnswerLost, "seg/", 1, CHANGED),
    ] {
        // More than a segment of changes.
        for byte in image.0[good * MIB..][..CHANGED].iter_mut() {
            *byte ^= 0x55;
        }
        let faulty = Faulty::new(&test.path, fault, prefix, good, usize::MAX);
        let vault = test.open_through(faulty.clone()).await;
        let error = back_up(&vault, MACHINE, &[("sda", &image)]).await.unwrap_err();
        let is_no_space = fault == Fault::NoSpace;
        assert!(error.is_retryable() && error.is_no_space() == is_no_space, "{}", chain(&error));
        refused.push(faulty.failed().swap_remove(0));
        faulty.heal();
        assert_eq!(good_points(&vault, MACHINE).await.len(), truths.len());
        let backup = begin(&vault, request(MACHINE, &[("sda", &image)])).await.unwrap();
        let sent = send_changes(&backup, "sda", &image).await.unwrap();
        assert!(sent <= (CHANGED - durable) / BLOCK_SIZE, "{sent} blocks were sent again after {good}");
        let point = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
        assert_eq!(point.disks[0].stack.len(), 1);
        truths.push(image.clone());
    }
    // All that it writes, in this order.
    let expected = ["open/", "/00000000.0", "/00000001.0", "points/", "/00000001.0"];
    assert!(refused.iter().zip(expected).all(|(name, part)| name.contains(part)), "{refused:?}");
    let vault = test.reopen().await.unwrap();
    for (point, truth) in good_points(&vault, MACHINE).await.iter().zip(&truths) {
        restore_disk(&vault, point, "sda", truth).await;
    }
}

/// Every cell of a merged delta: a flipped byte is noticed by whoever needs the cell, and named; points that lie on other deltas
/// do not mind.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_merged_delta_is_named() {
    let test = TestVault::new().await;
    let mut model = Model((1..600).collect());
    let before = back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap();
    let old = model.image();
    for block in (0..599).step_by(3) {
        model.0[block] = 7;
    }
    let merged = back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap();
    assert_eq!(merged.disks[0].stack.len(), 1);
    let name = format!("seg/{MACHINE}/{:020}/{:08}.0", merged.seq, 0);
    let path = test.path.join(&name);
    let good = std::fs::read(&path).unwrap();
    let regions = Anatomist::new(&test.path, &test.key_path).regions(&name, &good);
    let (mut of_restores, mut of_maps) = (0, 0);
    for (region, range) in regions {
        if region != Region::MetaCell {
            continue;
        }
        let mut bad = good.clone();
        bad[range.start + range.len() / 2] ^= 16;
        std::fs::write(&path, bad).unwrap();
        let vault = test.reopen().await.unwrap();
        restore_disk(&vault, &before, "sda", &old).await;
        match restore(&vault, &merged, "sda").await {
            Err(error @ VaultError::DamagedRange { .. }) => {
                let text = chain(&error);
                assert!(text.contains(&name) && text.contains(&merged.id.to_string()), "{text}");
                of_restores += 1;
            }
            Err(error) => panic!("{error}"),
            // A page of hashes: the next backup needs it.
            Ok(restored) => {
                assert!(restored == model.image());
                let backup = begin(&vault, request(MACHINE, &[("sda", &model.image())])).await.unwrap();
                let error = changed_blocks(&backup, "sda", &model.image()).await.unwrap_err();
                assert!(error.is_damage() && chain(&error).contains(&name), "{error}");
                // The attempt after it looks closer, and is a full one.
                let backup = begin(&vault, request(MACHINE, &[("sda", &model.image())])).await.unwrap();
                assert_eq!(backup.disk_base("sda").unwrap().base_size_bytes, 0);
                of_maps += 1;
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert_eq!((of_restores, of_maps), (2, 1), "page of extents and root, page of hashes");
}

/// A delta of the base that does not read when it is to be merged: no point, and the attempt after it is a full one.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_input_is_not_merged() {
    let test = TestVault::new().await;
    let mut model = Model((1..600).collect());
    back_up(&test.vault, MACHINE, &[("sda", &model.image())]).await.unwrap();
    let name = format!("seg/{MACHINE}/{:020}/{:08}.0", 1, 0);
    let path = test.path.join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    let regions = Anatomist::new(&test.path, &test.key_path).regions(&name, &bytes);
    // The first one is the page of extents, which the map does not need.
    let (_, range) = regions.into_iter().find(|(region, _)| *region == Region::MetaCell).unwrap();
    bytes[range.start + 3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for block in (0..599).step_by(3) {
        model.0[block] = 7;
    }
    let vault = test.reopen().await.unwrap();
    let backup = begin(&vault, request(MACHINE, &[("sda", &model.image())])).await.unwrap();
    let error = finish(&backup, &[("sda", &model.image())]).await.unwrap_err();
    assert!(error.is_damage() && chain(&error).contains(&name), "{}", chain(&error));
    let point = back_up(&vault, MACHINE, &[("sda", &model.image())]).await.unwrap();
    restore_disk(&vault, &point, "sda", &model.image()).await;
    assert_eq!(good_points(&vault, MACHINE).await.len(), 2);
}
