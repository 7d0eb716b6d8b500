use std::fs::OpenOptions;

use proptest::prelude::*;

use super::*;

const ID: [u8; 32] = [7; 32];

fn write(path: &Path, parts: &[(u64, u64)]) -> u64 {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    let mut writer = MapWriter::create(file).unwrap();
    for (value, count) in parts {
        if *value == 0 {
            writer.zeros(*count).unwrap();
        } else {
            let hashes: Vec<u64> = (0..*count).map(|index| value + index).collect();
            writer.hashes(&hashes).unwrap();
        }
    }
    writer.seal(ID).unwrap();
    parts.iter().map(|(_, count)| count).sum()
}

/// All hashes, or `None` if any part of the map is not believed.
fn read(path: &Path, block_count: u64) -> Option<Vec<u64>> {
    let mut reader = MapReader::open(path, &ID, block_count)?;
    let mut all = Vec::new();
    while let Some(run) = reader.next_run().ok()? {
        assert_eq!(run.first_block, all.len() as u64);
        match run.blocks {
            MapBlocks::Zeros(count) => all.extend(std::iter::repeat_n(0, usize::try_from(count).unwrap())),
            MapBlocks::Hashes(hashes) => {
                all.extend(hashes.chunks_exact(8).map(|hash| u64::from_le_bytes(hash.try_into().unwrap())));
            }
        }
    }
    Some(all)
}

fn expected(parts: &[(u64, u64)]) -> Vec<u64> {
    parts
        .iter()
        .flat_map(|(value, count)| (0..*count).map(move |index| if *value == 0 { 0 } else { value + index }))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_written_is_read(
        parts in prop::collection::vec((prop_oneof![Just(0_u64), 1..u64::MAX / 2], 1..300_u64), 0..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.map");
        let blocks = write(&path, &parts);
        prop_assert_eq!(read(&path, blocks), Some(expected(&parts)));
    }
}

#[test]
fn a_long_map_takes_several_chunks_and_a_hole_of_a_pebibyte_takes_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    let parts = [(5, 70_000), (0, 10), (9, 70_000)];
    let blocks = write(&path, &parts);
    assert_eq!(read(&path, blocks), Some(expected(&parts)));
    write(&path, &[(0, 1 << 38)]);
    assert!(path.metadata().unwrap().len() < 300);
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    let blocks = write(&path, &[(3, 20), (0, 100), (1000, 5)]);
    let whole = std::fs::read(&path).unwrap();
    assert!(read(&path, blocks).is_some());
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 8);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path, blocks), None, "flip at {position}");
        std::fs::write(&path, &whole[..position]).unwrap();
        assert_eq!(read(&path, blocks), None, "cut at {position}");
    }
}

#[test]
fn a_map_of_another_point_size_or_without_seal_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    let blocks = write(&path, &[(3, 20)]);
    assert!(MapReader::open(&path, &[8; 32], blocks).is_none());
    assert!(MapReader::open(&path, &ID, blocks + 1).is_none());
    let file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    let mut writer = MapWriter::create(file).unwrap();
    writer.hashes(&[1; 20]).unwrap();
    drop(writer);
    assert!(MapReader::open(&path, &ID, 20).is_none());
}
