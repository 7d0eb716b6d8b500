use std::fs::OpenOptions;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::record::RecordWriter;
use super::*;
use crate::transfer::map_run::MapBlocks;

const KEY: MapKey = MapKey([5; 32]);

/// A map file, and files beside it for records.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn map(&self) -> PathBuf {
        self.0.path().join("disk.map")
    }

    /// A record of runs: first block, first hash (0 for zeros), count.
    fn record(&self, name: &str, runs: &[(u64, u64, u64)]) -> RecordWriter {
        let path = self.0.path().join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(path).unwrap();
        let mut record = RecordWriter::create(file, KEY).unwrap();
        for (first, value, count) in runs {
            if *value == 0 {
                record.zeros(*first, *count).unwrap();
            } else {
                (0..*count).for_each(|index| record.hash(first + index, value + index).unwrap());
            }
        }
        record.finish().unwrap();
        record
    }

    fn begin(&self, id: u8, runs: &[(u64, u64, u64)], block_count: u64) {
        self.record("disk.map", runs).seal([id; 32], block_count).unwrap();
    }

    fn append(&self, id: u8, runs: &[(u64, u64, u64)], block_count: u64) {
        let old = *records_of(&File::open(self.map()).unwrap(), &KEY).last().unwrap();
        let log = self.open(old.header.map_id[0], old.header.block_count).unwrap();
        log.append(&self.map(), self.record("pending", runs), [id; 32], block_count).unwrap();
    }

    fn open(&self, id: u8, block_count: u64) -> Option<MapLog> {
        MapLog::open(&self.map(), KEY, &[id; 32], block_count)
    }

    /// All hashes, or `None` if any part of the map is not believed.
    fn read(&self, id: u8, block_count: u64) -> Option<Vec<u64>> {
        let mut reader = self.open(id, block_count)?.reader();
        let mut all = Vec::new();
        while let Some(run) = reader.next_run().ok()? {
            assert_eq!(run.first_block, all.len() as u64);
            match run.blocks {
                MapBlocks::Zeros(count) => {
                    all.extend(std::iter::repeat_n(0, usize::try_from(count).unwrap()));
                }
                MapBlocks::Hashes(hashes) => {
                    all.extend(hashes.as_chunks().0.iter().map(|hash| u64::from_le_bytes(*hash)));
                }
            }
        }
        Some(all)
    }
}

fn values(first: u64, count: u64) -> impl Iterator<Item = u64> {
    first..first + count
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_written_is_read(
        parts in prop::collection::vec((prop_oneof![Just(0_u64), 1..u64::MAX / 2], 1..300_u64), 0..12),
    ) {
        let files = Files::new();
        let (mut runs, mut all) = (Vec::new(), Vec::new());
        for (value, count) in parts {
            runs.push((all.len() as u64, value, count));
            all.extend((0..count).map(|index| if value == 0 { 0 } else { value + index }));
        }
        files.begin(7, &runs, all.len() as u64);
        prop_assert_eq!(files.read(7, all.len() as u64), Some(all));
    }
}

#[test]
fn a_long_map_takes_several_chunks_and_a_hole_of_a_pebibyte_a_few_bytes() {
    let files = Files::new();
    files.begin(7, &[(0, 5, 70_000), (70_000, 0, 10), (70_010, 9, 70_000)], 140_010);
    let expected = values(5, 70_000).chain([0; 10]).chain(values(9, 70_000));
    assert_eq!(files.read(7, 140_010), Some(expected.collect()));
    files.begin(7, &[(0, 0, 1 << 38)], 1 << 38);
    assert!(files.map().metadata().unwrap().len() < 200);
}

#[test]
fn the_newest_record_that_speaks_of_a_block_counts_and_what_was_cut_off_does_not_come_back() {
    let files = Files::new();
    files.begin(1, &[(0, 100, 20)], 20);
    files.append(2, &[(3, 500, 4), (10, 0, 5)], 20);
    files.append(3, &[(5, 900, 1), (12, 700, 1)], 18);
    let third: Vec<u64> =
        [100, 101, 102, 500, 501, 900, 503, 107, 108, 109, 0, 0, 700, 0, 0, 115, 116, 117].to_vec();
    assert_eq!(files.read(3, 18), Some(third.clone()));
    assert!(files.read(2, 20).is_none(), "an older id was accepted");
    // Nothing changed, then it shrinks, then it grows over what was there before.
    files.append(4, &[], 18);
    assert_eq!(files.read(4, 18), Some(third.clone()));
    files.append(5, &[], 4);
    files.append(6, &[(4, 0, 2)], 6);
    assert_eq!(files.read(6, 6), Some([&third[..4], &[0, 0]].concat()));
    files.append(7, &[], 8);
    assert_eq!(files.read(7, 8), None, "blocks that no record since the cut speaks of were made up");
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let files = Files::new();
    files.begin(1, &[(0, 3, 20), (20, 0, 100), (120, 1000, 5)], 125);
    files.append(2, &[(7, 77, 2), (119, 0, 3)], 125);
    files.append(3, &[], 125);
    files.append(4, &[(0, 0, 9)], 110);
    let whole = std::fs::read(files.map()).unwrap();
    assert!(files.read(4, 110).is_some());
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 8);
        std::fs::write(files.map(), &bytes).unwrap();
        assert_eq!(files.read(4, 110), None, "flip at {position}");
        std::fs::write(files.map(), &whole[..position]).unwrap();
        assert_eq!(files.read(4, 110), None, "cut at {position}");
    }
}

#[test]
fn records_of_other_files_and_places_are_not_believed() {
    let files = Files::new();
    let parts = |id| {
        files.begin(1, &[(0, 3, 20)], 20);
        let first = usize::try_from(files.map().metadata().unwrap().len()).unwrap();
        files.append(id, &[(1, 50, 4)], 20);
        let mut bytes = std::fs::read(files.map()).unwrap();
        let second = bytes.split_off(first);
        (bytes, second)
    };
    let (a, a_changes) = parts(2);
    let (b, b_changes) = parts(2);
    std::fs::write(files.map(), [&b[..], &b_changes].concat()).unwrap();
    assert!(files.read(2, 20).is_some());
    // The body of another record of the same shape behind the right header, and the other way round.
    let (header, body) = b_changes.split_at(HEADER_BYTES);
    for wrong in [
        [&a[..], &b_changes].concat(),
        [&b[..], &a_changes].concat(),
        [&b[..], header, &a_changes[HEADER_BYTES..]].concat(),
        [&b[..], &a_changes[..HEADER_BYTES], body].concat(),
        b_changes.clone(),
        [&b_changes[..], &b_changes].concat(),
    ] {
        std::fs::write(files.map(), wrong).unwrap();
        assert_eq!(files.read(2, 20), None);
    }
}

#[test]
fn a_map_of_another_point_size_disk_or_key_or_without_seal_is_not_believed() {
    let files = Files::new();
    files.begin(7, &[(0, 3, 20)], 20);
    let opens = |key| MapLog::open(&files.map(), key, &[7; 32], 20).is_some();
    assert!(files.open(8, 20).is_none() && files.open(7, 21).is_none());
    assert!(opens(KEY) && !opens(MapKey([6; 32])));
    let (key, other_disk, other_key) =
        (MapKey::new(&[1; 32], "a"), MapKey::new(&[1; 32], "b"), MapKey::new(&[2; 32], "a"));
    assert!(key.0 != other_disk.0 && key.0 != other_key.0);
    drop(files.record("disk.map", &[(0, 3, 20)]));
    assert!(files.open(7, 20).is_none());
}

#[test]
fn another_map_that_took_the_place_is_not_appended_to() {
    let files = Files::new();
    files.begin(1, &[(0, 3, 20)], 20);
    let log = files.open(1, 20).unwrap();
    files.begin(1, &[(0, 4, 20)], 20);
    let before = std::fs::read(files.map()).unwrap();
    log.append(&files.map(), files.record("pending", &[]), [2; 32], 20).unwrap_err();
    assert_eq!(std::fs::read(files.map()).unwrap(), before);
}
