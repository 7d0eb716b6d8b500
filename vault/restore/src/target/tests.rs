#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::MetadataExt as _;

use super::*;

const BLOCK: [u8; BLOCK_SIZE] = [7; BLOCK_SIZE];

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn extent(first_block: u64, block_count: u64) -> Extent {
    Extent { first_block, block_count }
}

#[test]
fn only_a_whole_disk_gets_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let size = 3 * BLOCK_SIZE as u64 - 100;
    let target = Target::create(&path, size, Existing::Keep).unwrap();
    target.write(2, &BLOCK).unwrap();
    target.zeros(extent(0, 1)).unwrap();
    let refused = |result: Result<(), RestoreError>, why: &str| match result {
        Err(RestoreError::Content(error)) => assert_eq!(error.to_string(), why),
        other => panic!("{why}: {other:?}"),
    };
    refused(target.finish(), "blocks are missing");
    for (first, count) in [(2, 1), (0, 2)] {
        refused(target.zeros(extent(first, count)), "a block came twice");
    }
    for (first, count) in [(3, 1), (u64::MAX, 2)] {
        refused(target.zeros(extent(first, count)), "a block outside the disk");
    }
    refused(target.write(2, &BLOCK), "a block came twice");
    refused(target.write(3, &BLOCK), "a block outside the disk");
    drop(target);
    assert!(names(folder.path()).is_empty());

    let target = Target::create(&path, size, Existing::Keep).unwrap();
    target.zeros(extent(0, 2)).unwrap();
    target.write(2, &BLOCK).unwrap();
    target.finish().unwrap();
    drop(target);
    assert_eq!(names(folder.path()), ["disk"]);
    let found = std::fs::read(&path).unwrap();
    assert_eq!((found.len() as u64, path.metadata().unwrap().mode() & 0o777), (size, 0o600));
    assert!(found[..2 * BLOCK_SIZE].iter().all(|byte| *byte == 0));
    assert!(found[2 * BLOCK_SIZE..].iter().all(|byte| *byte == 7));
}

#[test]
fn zeros_among_the_blocks_become_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let content = [vec![0; 31 * BLOCK_SIZE], BLOCK.to_vec(), vec![0; 32 * BLOCK_SIZE]].concat();
    let target = Target::create(&path, content.len() as u64, Existing::Keep).unwrap();
    target.write(0, &content).unwrap();
    target.finish().unwrap();
    assert!(std::fs::read(&path).unwrap() == content);
    let taken = path.metadata().unwrap().blocks() * 512;
    assert!(taken <= 16 * BLOCK_SIZE as u64, "holes take {taken} bytes");
}

/// What a controller says is no reason to take memory for it, to work on it for hours, or to leave a file.
#[test]
fn a_disk_may_have_any_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    for size in [1 << 40, 1 << 43, i64::MAX as u64, u64::MAX] {
        // The file system may refuse it.
        let Ok(target) = Target::create(&path, size, Existing::Keep) else { continue };
        target.zeros(extent(0, blocks_of(size) - 1)).unwrap();
        target.zeros(extent(blocks_of(size) - 2, 1)).unwrap_err();
        target.zeros(extent(blocks_of(size) - 1, 1)).unwrap();
        assert_eq!(target.blocks().seen.runs(), 1);
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn nothing_is_replaced_unasked_however_late_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let target = Target::create(&path, 0, Existing::Keep).unwrap();
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(target.finish(), Err(RestoreError::Exists { .. })));
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert!(matches!(check(&path, Existing::Keep), Err(RestoreError::Exists { .. })));
    assert!(matches!(check(folder.path(), Existing::Replace), Err(RestoreError::NotAFile { .. })));
    check(&path, Existing::Replace).unwrap();
    let target = Target::create(&path, 1, Existing::Replace).unwrap();
    target.zeros(extent(0, 1)).unwrap();
    target.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), [0]);
}

#[test]
fn a_leftover_is_taken_over_and_a_running_restore_is_not_disturbed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(folder.path().join("disk.partial"), vec![9; 50_000]).unwrap();
    let target = Target::create(&path, 10, Existing::Keep).unwrap();
    assert!(matches!(Target::create(&path, 10, Existing::Keep), Err(RestoreError::Busy { .. })));
    target.zeros(extent(0, 1)).unwrap();
    target.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), [0; 10]);
}

#[test]
fn what_somebody_put_in_its_place_gets_no_name_and_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, partial) = (folder.path().join("disk"), folder.path().join("disk.partial"));
    let target = Target::create(&path, 0, Existing::Keep).unwrap();
    std::fs::remove_file(&partial).unwrap();
    std::fs::write(&partial, "another").unwrap();
    assert!(matches!(target.finish(), Err(RestoreError::File { .. })));
    drop(target);
    assert_eq!(names(folder.path()), ["disk.partial"]);
}
