use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::map_file::journal::{self, Op};
use super::*;

const KEY: [u8; 32] = [3; 32];

/// The hashes of a disk's blocks.
type Blocks = Vec<u64>;

/// What happens between two points: blocks get other hashes (0: zeros), the size changes.
#[derive(Debug, Clone)]
struct Edit {
    changes: Vec<(Index, u64, usize)>,
    size: Option<usize>,
}

#[derive(Debug, Clone)]
enum End {
    Activated,
    /// Cut off after so many blocks.
    CrashWhileScanning(Index),
    /// Cut off after so many operations on the file, of those that were not synced what the seed says.
    CrashWhileActivating {
        operations: Index,
        seed: u64,
        vault: Vault,
    },
}

/// Which point the vault offers as base after the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vault {
    Newest,
    /// The newest one was deleted.
    Older,
}

fn scratch() -> (tempfile::TempDir, MapStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = MapStore::new(dir.path());
    (dir, store)
}

fn id(number: u64) -> [u8; 32] {
    let mut id = [1; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    id
}

/// As a scan does: by the map in force if it is the base's.
fn begin(store: &MapStore, base: u64, blocks: usize) -> PendingMap {
    match store.open("data", &KEY, &id(base), blocks as u64) {
        Some(log) => store.begin_changes("data", &KEY, log).unwrap(),
        None => store.begin("data", &KEY).unwrap(),
    }
}

/// Tells the blocks in windows, long runs of zeros as holes.
fn tell(pending: &mut PendingMap, blocks: &[u64], window: usize) {
    let mut left = blocks;
    while !left.is_empty() {
        let zeros = left.iter().take_while(|hash| **hash == 0).count();
        let count = if zeros > 5 { zeros } else { left.len().min(window) };
        if zeros > 5 {
            pending.zeros(zeros as u64).unwrap();
        } else {
            pending.hashes(&left[..count]).unwrap();
        }
        left = &left[count..];
    }
}

fn read(store: &MapStore, number: u64, blocks: usize) -> Option<Blocks> {
    let mut reader = store.open("data", &KEY, &id(number), blocks as u64)?.reader();
    let mut all = Vec::new();
    while let Some(run) = reader.next_run().unwrap() {
        match run.blocks {
            MapBlocks::Zeros(count) => all.extend(std::iter::repeat_n(0, usize::try_from(count).unwrap())),
            MapBlocks::Hashes(hashes) => {
                all.extend(hashes.as_chunks().0.iter().map(|hash| u64::from_le_bytes(*hash)));
            }
        }
    }
    Some(all)
}

/// The file after a power cut: what was synced is there, of the rest any sectors may be.
fn cut_off(before: &[u8], operations: &[Op], seed: u64) -> Vec<u8> {
    const SECTOR: usize = 32;
    let mut state = seed;
    let mut kept = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 63 == 1
    };
    let synced = operations.iter().rposition(|operation| matches!(operation, Op::Sync)).unwrap_or(0);
    let mut file = before.to_vec();
    for (number, operation) in operations.iter().enumerate() {
        match operation {
            Op::Sync => {}
            Op::Cut(length) if number < synced || kept() => {
                file.resize(usize::try_from(*length).unwrap(), 0);
            }
            Op::Cut(_) => {}
            Op::Write(at, bytes) => {
                for (sector, piece) in bytes.chunks(SECTOR).enumerate() {
                    let start = usize::try_from(*at).unwrap() + sector * SECTOR;
                    if number < synced || kept() {
                        file.resize(file.len().max(start + piece.len()), 0);
                        file[start..start + piece.len()].copy_from_slice(piece);
                    }
                }
            }
        }
    }
    file
}

fn edit() -> impl Strategy<Value = Edit> {
    let hash = prop_oneof![1 => Just(0), 3 => 1..u64::MAX];
    let length = prop_oneof![4 => 1..8_usize, 1 => 100..6000_usize];
    (
        prop::collection::vec((any::<Index>(), hash, length), 0..12),
        prop_oneof![3 => Just(None), 1 => (0..9000_usize).prop_map(Some)],
    )
        .prop_map(|(changes, size)| Edit { changes, size })
}

fn end() -> impl Strategy<Value = End> {
    let vault = prop_oneof![Just(Vault::Newest), Just(Vault::Older)];
    prop_oneof![
        5 => Just(End::Activated),
        1 => any::<Index>().prop_map(End::CrashWhileScanning),
        3 => (any::<Index>(), any::<u64>(), vault)
            .prop_map(|(operations, seed, vault)| End::CrashWhileActivating { operations, seed, vault }),
    ]
}

impl Edit {
    fn apply(&self, blocks: &mut Blocks) {
        if let Some(size) = self.size {
            blocks.resize(size, 0);
        }
        for (at, hash, count) in &self.changes {
            if !blocks.is_empty() {
                let first = at.index(blocks.len());
                let end = (first + count).min(blocks.len());
                for (index, block) in blocks[first..end].iter_mut().enumerate() {
                    *block = if *hash == 0 { 0 } else { hash.wrapping_add(index as u64).max(1) };
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_happens_a_map_that_opens_is_the_one_of_its_id(
        steps in prop::collection::vec((edit(), 1..700_usize, end()), 1..24),
    ) {
        let (dir, store) = scratch();
        let path = dir.path().join("data.map");
        // The newest point, by its number, and its blocks.
        let (mut base, mut blocks) = (0, Blocks::new());
        for (number, (edit, window, end)) in (1..).zip(steps) {
            let mut now = blocks.clone();
            edit.apply(&mut now);
            let was_open = store.open("data", &KEY, &id(base), blocks.len() as u64).is_some();
            let mut pending = begin(&store, base, blocks.len());
            if let End::CrashWhileScanning(after) = &end {
                tell(&mut pending, &now[..after.index(now.len() + 1)], window);
                std::mem::forget(pending);
                store.clear_pending();
                prop_assert_eq!(read(&store, base, blocks.len()), was_open.then(|| blocks.clone()));
                continue;
            }
            tell(&mut pending, &now, window);
            let before = std::fs::read(&path).unwrap_or_default();
            journal::take();
            pending.activate(id(number)).unwrap();
            let operations = journal::take();
            prop_assert_eq!(read(&store, number, now.len()), Some(now.clone()));
            let mut keep_old = false;
            if let End::CrashWhileActivating { operations: at, seed, vault } = end {
                let done = at.index(operations.len() + 1);
                if let [Op::Write(0, _), Op::Sync] = &operations[..] {
                    // A whole new file, which is renamed when it is durable: the rename was done or not.
                    if done < operations.len() {
                        std::fs::rename(&path, dir.path().join("data.pending-x")).unwrap();
                        std::fs::write(&path, &before).unwrap();
                        store.clear_pending();
                    }
                } else {
                    std::fs::write(&path, cut_off(&before, &operations[..done], seed)).unwrap();
                }
                let new = read(&store, number, now.len());
                let old = read(&store, base, blocks.len());
                // The one that was in force, or the new one: never neither, never another content.
                if new.is_some() {
                    prop_assert_eq!((new.as_ref(), old.as_ref()), (Some(&now), None));
                } else {
                    prop_assert_eq!(old.as_ref(), was_open.then_some(&blocks));
                }
                prop_assert!(done < operations.len() || new.is_some(), "an activation that ended was lost");
                keep_old = old.is_some() && vault == Vault::Older;
            }
            if !keep_old {
                (base, blocks) = (number, now);
            }
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a file was left behind");
        }
    }
}

#[test]
fn a_map_counts_only_once_it_is_activated_and_leftovers_go() {
    let (dir, store) = scratch();
    let count = || std::fs::read_dir(dir.path()).unwrap().count();
    for (disk, number) in [("a", 1), ("a.pending-x", 2)] {
        let mut pending = store.begin(disk, &KEY).unwrap();
        pending.hashes(&[1, 2, 3]).unwrap();
        assert!(store.open(disk, &KEY, &id(number), 3).is_none());
        pending.activate(id(number)).unwrap();
        assert!(store.open(disk, &KEY, &id(number), 3).is_some());
        assert!(store.open(disk, &[4; 32], &id(number), 3).is_none(), "hashes under another key were taken");
    }
    drop(store.begin("a", &KEY).unwrap());
    assert_eq!(count(), 2);
    std::mem::forget(store.begin("a", &KEY).unwrap());
    assert_eq!(count(), 3);
    store.clear_pending();
    assert_eq!(count(), 2);
    store.discard("a");
    store.discard("a");
    assert_eq!(count(), 1);
}

/// Bytes that this thread gave to write calls.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_small_incrementals_write_what_they_change_and_one_base_at_most() {
    const BLOCKS: u64 = (2 << 30) / 4096;
    const CHANGED: u64 = 100;
    let (dir, store) = scratch();
    let path = dir.path().join("data.map");
    let mut blocks: Blocks =
        (1..=BLOCKS).map(|block| block.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).collect();
    let mut pending = store.begin("data", &KEY).unwrap();
    tell(&mut pending, &blocks, 512);
    pending.activate(id(0)).unwrap();
    let base_bytes = path.metadata().unwrap().len();
    assert!(base_bytes < BLOCKS * 8 * 101 / 100);
    let (mut rewrites, mut appends) = (Vec::new(), Vec::new());
    for number in 1..=100 {
        for change in 0..CHANGED {
            let block = (change * (BLOCKS / CHANGED) + number * 17) % BLOCKS;
            blocks[usize::try_from(block).unwrap()] ^= number << 1;
        }
        let inode = path.metadata().unwrap().ino();
        let before = written();
        let mut pending = begin(&store, number - 1, blocks.len());
        tell(&mut pending, &blocks, 512);
        pending.activate(id(number)).unwrap();
        let list = if path.metadata().unwrap().ino() == inode { &mut appends } else { &mut rewrites };
        list.push(written() - before);
    }
    assert!(read(&store, 100, blocks.len()).unwrap() == blocks);
    assert!(rewrites.len() <= 1, "{} rewrites", rewrites.len());
    assert!(rewrites.iter().all(|bytes| *bytes < base_bytes * 101 / 100), "{rewrites:?}");
    let most = appends.iter().max().unwrap();
    assert!(*most < 2 * CHANGED * 8, "an incremental of {CHANGED} blocks wrote {most} bytes");
}

#[test]
fn a_disk_in_which_nothing_changes_costs_a_header_per_point_and_no_rewrite() {
    let (dir, store) = scratch();
    let path = dir.path().join("data.map");
    let blocks: Blocks = (1..=50_000).collect();
    let mut pending = store.begin("data", &KEY).unwrap();
    tell(&mut pending, &blocks, 512);
    pending.activate(id(0)).unwrap();
    let inode = path.metadata().unwrap().ino();
    let base_bytes = path.metadata().unwrap().len();
    for number in 1..=200 {
        let mut pending = begin(&store, number - 1, blocks.len());
        tell(&mut pending, &blocks, 512);
        pending.activate(id(number)).unwrap();
    }
    assert_eq!(path.metadata().unwrap().ino(), inode, "it was rewritten");
    assert!(path.metadata().unwrap().len() - base_bytes < 200 * 128);
    assert_eq!(read(&store, 200, blocks.len()), Some(blocks));
}

#[test]
fn a_large_change_is_merged_at_once_and_memory_stays_bounded() {
    const BLOCKS: u64 = 400_000;
    let (dir, store) = scratch();
    let path = dir.path().join("data.map");
    let mut blocks: Blocks = (1..=BLOCKS).collect();
    let mut pending = store.begin("data", &KEY).unwrap();
    tell(&mut pending, &blocks, 512);
    pending.activate(id(0)).unwrap();
    let mut most = 0;
    for number in 1..=70 {
        // Every record has several chunks, all of them spread over the disk.
        for block in blocks.iter_mut().step_by(400) {
            *block ^= number << 32;
        }
        let mut pending = begin(&store, number - 1, blocks.len());
        tell(&mut pending, &blocks, 512);
        pending.activate(id(number)).unwrap();
        let mut reader = store.open("data", &KEY, &id(number), BLOCKS).unwrap().reader();
        while reader.next_run().unwrap().is_some() {
            most = most.max(reader.held_bytes());
        }
    }
    assert!(most < 4 << 20, "{most} bytes in memory");
    assert!(read(&store, 70, blocks.len()).unwrap() == blocks);

    for block in &mut blocks {
        *block ^= 1 << 60;
    }
    let inode = path.metadata().unwrap().ino();
    let mut pending = begin(&store, 70, blocks.len());
    tell(&mut pending, &blocks, 512);
    let spilled = pending.file.0.metadata().unwrap().len();
    assert!(spilled > BLOCKS * 8 - (1 << 20), "{spilled} bytes of the record have left memory");
    pending.activate(id(71)).unwrap();
    assert_ne!(path.metadata().unwrap().ino(), inode, "it was not rewritten");
    assert!(path.metadata().unwrap().len() < BLOCKS * 8 * 101 / 100);
    assert!(read(&store, 71, blocks.len()).unwrap() == blocks);
}

#[test]
fn damage_that_is_found_while_merging_leaves_the_old_map_under_its_id() {
    let (dir, store) = scratch();
    let path = dir.path().join("data.map");
    let blocks: Blocks = (1..=20_000).collect();
    let mut pending = store.begin("data", &KEY).unwrap();
    tell(&mut pending, &blocks, 512);
    pending.activate(id(0)).unwrap();
    let mut changed = blocks;
    changed[10_000..].fill(7);
    let mut pending = begin(&store, 0, changed.len());
    tell(&mut pending, &changed, 512);
    let mut bytes = std::fs::read(&path).unwrap();
    let quarter = bytes.len() / 4;
    bytes[quarter] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    pending.activate(id(1)).unwrap_err();
    assert!(store.open("data", &KEY, &id(1), 20_000).is_none());
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a file was left behind");
}
