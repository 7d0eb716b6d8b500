use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use holdfast_proto::ids::StepId;
use proptest::prelude::*;
use tokio::sync::mpsc;

use holdfast_vault_format::block::blocks_of;

use super::*;
use crate::disk::DiskSource;
use crate::snapshot::Snapshot;
use crate::testing::skip::skip;
use crate::transfer::base::{MapMessage, RunSource};
use crate::transfer::gather::{Layout, MAX_CELL_EXTENTS};
use crate::transfer::map_run::{MapBlocks, MapRun};
use crate::transfer::map_store::MapStore;

const KEY: [u8; 32] = [9; 32];
const CELL_BLOCKS: u64 = 32;

/// What one block of a test image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Hole,
    Zeros,
    Filled(u8),
}

/// An image: blocks, and a size that cuts the last one.
#[derive(Debug, Clone)]
struct Image {
    blocks: Vec<Content>,
    cut: usize,
}

impl Image {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let fill = if let Content::Filled(seed) = block { *seed } else { 0 };
            let other = fill ^ number.to_le_bytes()[0];
            let pattern = if fill == 0 { [0; 7] } else { [fill, other, other, other, other, other, other] };
            bytes.extend_from_slice(&pattern.repeat(BLOCK_SIZE.div_ceil(7))[..BLOCK_SIZE]);
        }
        bytes.truncate(bytes.len().saturating_sub(self.cut));
        bytes
    }

    /// A real file with real holes.
    fn write(&self, path: &Path) {
        let bytes = self.bytes();
        let file = File::create(path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (number, block) in self.blocks.iter().enumerate() {
            let start = number * BLOCK_SIZE;
            let end = (start + BLOCK_SIZE).min(bytes.len());
            if *block != Content::Hole && start < end {
                file.write_all_at(&bytes[start..end], start as u64).unwrap();
            }
        }
    }
}

fn hashes(bytes: &[u8]) -> Vec<u64> {
    let hasher = BlockHasher::new(&KEY);
    padded(bytes).chunks_exact(BLOCK_SIZE).map(|block| hasher.hash(block)).collect()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
    padded
}

/// Runs of random length, with runs of zeros as such.
fn fetched(hashes: &[(u64, u64)], run: usize) -> RunSource {
    let (sender, receiver) = mpsc::channel(hashes.len() + 1);
    let mut index = 0;
    while index < hashes.len() {
        let (first_block, hash) = hashes[index];
        let mut values = Vec::new();
        let zeros = hash == 0;
        while index < hashes.len()
            && hashes[index].0 == first_block + values.len() as u64
            && (hashes[index].1 == 0) == zeros
            && values.len() < run
        {
            values.push(hashes[index].1);
            index += 1;
        }
        let blocks = if zeros {
            MapBlocks::Zeros(values.len() as u64)
        } else {
            MapBlocks::Hashes(Bytes::from(
                values.iter().flat_map(|hash| hash.to_le_bytes()).collect::<Vec<u8>>(),
            ))
        };
        sender.try_send(MapMessage::Run(MapRun { first_block, blocks })).unwrap();
    }
    sender.try_send(MapMessage::End).unwrap();
    RunSource::Fetched(receiver)
}

fn numbered(hashes: &[u64]) -> Vec<(u64, u64)> {
    hashes.iter().enumerate().map(|(number, hash)| (number as u64, *hash)).collect()
}

struct Outcome {
    /// What was sent, by block.
    sent: BTreeMap<u64, Vec<u8>>,
    scanned: Scanned,
    meter: Meter,
}

/// Scans a file and checks the shape of all cells on the way.
fn scan(path: &Path, base: Base, layout: Layout, map: Option<PendingMap>) -> Result<Outcome, TransferError> {
    let source = DiskSource { name: "data".to_owned(), path: path.to_owned() };
    let snapshot = Snapshot::take(StepId::generate(), &[source]).unwrap();
    let disk = &snapshot.disks[0];
    let meter = Meter::new(disk.size_bytes);
    let mut sent = BTreeMap::new();
    let sink = |batch: Batch| {
        for (cell, plain) in batch.cells() {
            assert!(cell.extents.len() <= MAX_CELL_EXTENTS);
            assert!(plain.len() as u64 <= CELL_BLOCKS * BLOCK_SIZE as u64);
            assert!(cell.extents.is_sorted_by(|a, b| a.first_block + a.block_count < b.first_block));
            let numbers: Vec<u64> =
                cell.extents.iter().flat_map(|e| e.first_block..e.first_block + e.block_count).collect();
            if layout == Layout::Aligned {
                assert_eq!(numbers[0] / CELL_BLOCKS, numbers[numbers.len() - 1] / CELL_BLOCKS);
            }
            assert_eq!(numbers.len() * BLOCK_SIZE, plain.len());
            for (number, block) in numbers.into_iter().zip(plain.chunks_exact(BLOCK_SIZE)) {
                assert!(block.iter().any(|byte| *byte != 0), "zeros were sent as data");
                assert!(sent.insert(number, block.to_vec()).is_none(), "block {number} was sent twice");
            }
        }
        for extent in batch.zeros {
            for number in extent.first_block..extent.first_block + extent.block_count {
                assert!(sent.insert(number, vec![0; BLOCK_SIZE]).is_none(), "block {number} was sent twice");
            }
        }
        Ok(())
    };
    let scan = Scan {
        disk,
        hasher: BlockHasher::new(&KEY),
        base,
        gatherer: Gatherer::new(layout, CELL_BLOCKS, sink),
        map,
        meter: &meter,
        wait: &DiskWait::default(),
        stop: &CancellationToken::new(),
    };
    let scanned = scan.run()?;
    Ok(Outcome { sent, scanned, meter })
}

/// What must be sent: all blocks that nothing is known of, or whose hash differs.
fn expected(now: &[u8], known: &BTreeMap<u64, u64>) -> BTreeMap<u64, Vec<u8>> {
    let hashes = hashes(now);
    padded(now)
        .chunks_exact(BLOCK_SIZE)
        .enumerate()
        .filter(|(number, _)| known.get(&(*number as u64)) != Some(&hashes[*number]))
        .map(|(number, block)| (number as u64, block.to_vec()))
        .collect()
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        2 => Just(Content::Hole),
        2 => Just(Content::Zeros),
        3 => (1..4_u8).prop_map(Content::Filled),
        1 => any::<u8>().prop_map(Content::Filled),
    ]
}

/// Runs of equal blocks, so that there are long holes as well as single blocks.
fn image() -> impl Strategy<Value = Image> {
    let run = (content(), prop_oneof![4 => 1..4_usize, 1 => 30..70_usize, 1 => 500..600_usize]);
    (prop::collection::vec(run, 0..10), prop_oneof![Just(0), 1..BLOCK_SIZE]).prop_map(|(runs, cut)| {
        let blocks =
            runs.into_iter().flat_map(|(content, count)| std::iter::repeat_n(content, count)).collect();
        Image { blocks, cut }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_sent_is_exactly_what_differs(
        before in image(),
        now in image(),
        shared in any::<bool>(),
        run in 1..200_usize,
        received in prop::collection::btree_map(0..700_u64, 0..5_u64, 0..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.raw");
        let mut now = now;
        if shared {
            // Most disks change little: take the start from before.
            let common = before.blocks.len().min(now.blocks.len()) / 2;
            now.blocks[..common].copy_from_slice(&before.blocks[..common]);
        }
        now.write(&path);
        let (before, now) = (before.bytes(), now.bytes());
        let now_hashes = hashes(&now);
        let base_hashes = numbered(&hashes(&before));
        // Some of what was received is what is there now, some is not.
        let overlay: Vec<(u64, u64)> = received
            .iter()
            .map(|(block, choice)| {
                let current = usize::try_from(*block).ok().and_then(|block| now_hashes.get(block)).copied();
                (*block, if *choice < 3 { current.unwrap_or(77) } else { *choice - 3 })
            })
            .collect();
        let mut known: BTreeMap<u64, u64> = base_hashes.iter().copied().collect();
        known.extend(overlay.iter().copied());
        let layout = if before.is_empty() { Layout::Aligned } else { Layout::Gathered };
        let store = MapStore::new(dir.path());
        let map = store.begin("data", &KEY).unwrap();
        let base = Base::new(fetched(&base_hashes, run), fetched(&overlay, run));
        let outcome = scan(&path, base, layout, Some(map)).unwrap();
        prop_assert!(outcome.sent == expected(&now, &known));
        prop_assert!(outcome.scanned.read_bytes <= now.len() as u64);
        prop_assert_eq!(outcome.meter.progress().read_bytes, now.len() as u64);

        // The map that was written serves as the base of the next scan: nothing differs.
        outcome.scanned.map.unwrap().activate([1; 32]).unwrap();
        let local = store.open("data", &KEY, &[1; 32], blocks_of(now.len() as u64)).unwrap();
        let base = Base::new(RunSource::Local(Box::new(local.reader())), RunSource::Empty);
        let again = scan(&path, base, Layout::Gathered, None).unwrap();
        prop_assert!(again.sent.is_empty());
        prop_assert_eq!(again.meter.progress().changed_bytes, 0);
    }
}

#[test]
fn a_hole_of_a_tebibyte_is_neither_read_nor_sent_as_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.raw");
    let file = File::create(&path).unwrap();
    let size = (1 << 40) + 1234;
    if let Err(error) = file.set_len(size) {
        skip(format_args!("this file system has no such large files: {error}"));
        return;
    }
    file.write_all_at(&[5; 3], 1 << 39).unwrap();
    drop(file);
    let source = DiskSource { name: "sparse".to_owned(), path };
    let snapshot = Snapshot::take(StepId::generate(), &[source]).unwrap();
    let meter = Meter::new(size);
    let (mut data, mut zeros) = (0, 0);
    let began = std::time::Instant::now();
    let scan = Scan {
        disk: &snapshot.disks[0],
        hasher: BlockHasher::new(&KEY),
        base: Base::new(RunSource::Empty, RunSource::Empty),
        gatherer: Gatherer::new(Layout::Aligned, CELL_BLOCKS, |batch: Batch| {
            data += batch
                .cells
                .iter()
                .flat_map(|cell| &cell.extents)
                .map(|extent| extent.block_count)
                .sum::<u64>();
            zeros += batch.zeros.iter().map(|extent| extent.block_count).sum::<u64>();
            Ok(())
        }),
        map: None,
        meter: &meter,
        wait: &DiskWait::default(),
        stop: &CancellationToken::new(),
    };
    let scanned = scan.run().unwrap();
    assert_eq!((data, zeros), (1, blocks_of(size) - 1));
    assert!(scanned.read_bytes < 1 << 20, "holes were read: {} bytes", scanned.read_bytes);
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn a_damaged_local_map_ends_the_scan_instead_of_being_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.raw");
    let image = Image { blocks: (1..=250).cycle().take(2000).map(Content::Filled).collect(), cut: 5 };
    image.write(&path);
    let store = MapStore::new(dir.path());
    let empty = Base::new(RunSource::Empty, RunSource::Empty);
    let outcome = scan(&path, empty, Layout::Aligned, Some(store.begin("data", &KEY).unwrap())).unwrap();
    outcome.scanned.map.unwrap().activate([1; 32]).unwrap();
    let map = dir.path().join("data.map");
    let mut bytes = std::fs::read(&map).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&map, bytes).unwrap();
    let local = store.open("data", &KEY, &[1; 32], 2000).unwrap();
    let base = Base::new(RunSource::Local(Box::new(local.reader())), RunSource::Empty);
    let error = scan(&path, base, Layout::Gathered, None).err().unwrap();
    assert!(matches!(error, TransferError::MapDamaged { .. }), "{error:?}");
}

#[test]
fn a_writer_in_the_middle_of_a_scan_fails_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.raw");
    Image { blocks: vec![Content::Filled(3); 2000], cut: 0 }.write(&path);
    let source = DiskSource { name: "data".to_owned(), path: path.clone() };
    let snapshot = Snapshot::take(StepId::generate(), &[source]).unwrap();
    let mut writer = None;
    let scan = Scan {
        disk: &snapshot.disks[0],
        hasher: BlockHasher::new(&KEY),
        base: Base::new(RunSource::Empty, RunSource::Empty),
        gatherer: Gatherer::new(Layout::Aligned, CELL_BLOCKS, |_| {
            writer.get_or_insert_with(|| {
                let path = path.clone();
                let writer = std::thread::spawn(move || File::options().write(true).open(path).unwrap());
                std::thread::sleep(std::time::Duration::from_millis(200));
                writer
            });
            Ok(())
        }),
        map: None,
        meter: &Meter::new(0),
        wait: &DiskWait::default(),
        stop: &CancellationToken::new(),
    };
    let error = scan.run().unwrap_err();
    assert!(matches!(error, TransferError::Snapshot(_)), "{error:?}");
    writer.unwrap().join().unwrap();
}
