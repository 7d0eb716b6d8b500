use std::fs::OpenOptions;

use super::*;
use crate::disk::DiskSource;
use crate::snapshot::offline::hold;
use crate::snapshot::offline::tests::held;
use crate::snapshot::{SnapshotDisk, SnapshotError};
use crate::testing::loop_disk::{LoopDevice, LoopDir};
use crate::testing::skip::tool;

const MIB: u64 = 1 << 20;

fn source(path: &Path) -> DiskSource {
    DiskSource { name: "data".to_owned(), path: path.to_owned() }
}

fn writer(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

fn assert_broken(disk: &SnapshotDisk) {
    assert!(matches!(disk.check(), Err(SnapshotError::Broken { .. })));
    assert_eq!(disk.check().unwrap_err().detail().code, "disk_in_use", "broken once, broken for good");
}

#[test]
fn whoever_has_it_open_for_writing_uses_it() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(device) = LoopDevice::attach(&dir, "disk", 32) else { return };
    let Some(part) = device.partition(1, 1, 8) else { return };
    let Some(other) = device.partition(2, 16, 8) else { return };
    for (open, disk) in
        [(device.path(), device.path()), (part.as_path(), device.path()), (device.path(), part.as_path())]
    {
        let writing = writer(open);
        let error = hold(&source(disk)).unwrap_err();
        assert!(matches!(error, SnapshotError::InUse { .. }), "{disk:?} while {open:?}: {error:?}");
        drop(writing);
        held(disk).check().unwrap();
    }
    let (_reader, _neighbour) = (File::open(device.path()).unwrap(), writer(&other));
    held(&part).check().unwrap();
}

#[test]
fn whatever_is_written_breaks_it() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(device) = LoopDevice::attach(&dir, "disk", 32) else { return };
    let Some(part) = device.partition(1, 1, 8) else { return };
    let path = device.path().to_str().unwrap();

    // It is open elsewhere, so what is written stays in the page cache.
    let disk = held(device.path());
    writer(device.path()).write_all_at(&[1; 4096], 3 * MIB).unwrap();
    assert_broken(&disk);
    drop(disk);

    let disk = held(device.path());
    let of = format!("of={path}");
    tool("dd", &["if=/dev/zero", &of, "bs=4096", "count=1", "seek=100", "conv=notrunc", "oflag=direct"])
        .unwrap();
    assert_broken(&disk);
    drop(disk);

    for held_device in [device.path(), part.as_path()] {
        let disk = held(held_device);
        let file = writer(&part);
        disk.check().unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.sync_all().unwrap();
        assert_broken(&disk);
    }

    let disk = held(device.path());
    if tool("fallocate", &["--punch-hole", "--offset", "0", "--length", "65536", path]).is_some() {
        assert_broken(&disk);
    }
}

#[test]
fn reading_and_syncing_it_and_writing_beside_it_break_nothing() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(device) = LoopDevice::attach(&dir, "disk", 32) else { return };
    let Some(part) = device.partition(1, 1, 8) else { return };
    let Some(other) = device.partition(2, 16, 8) else { return };
    let disk = held(&part);
    let mut buffer = vec![0; 65536];
    for at in (0..disk.size_bytes).step_by(buffer.len()) {
        disk.file.read_exact_at(&mut buffer, at).unwrap();
        disk.check().unwrap();
    }
    disk.file.sync_all().unwrap();
    File::open(device.path()).unwrap().sync_all().unwrap();
    let neighbour = writer(&other);
    neighbour.write_all_at(&buffer, 0).unwrap();
    neighbour.sync_all().unwrap();
    disk.check().unwrap();
}

#[test]
fn what_somebody_read_before_it_was_changed_is_read_again() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(device) = LoopDevice::attach(&dir, "disk", 32) else { return };
    let Some(part) = device.partition(1, 1, 8) else { return };
    let (mut before, mut now) = ([0; 4096], [0; 4096]);
    // As long as it is open, the page cache keeps what was read.
    let reader = File::open(device.path()).unwrap();
    reader.read_exact_at(&mut before, MIB).unwrap();
    let file = writer(&part);
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let disk = held(device.path());
    disk.file.read_exact_at(&mut now, MIB).unwrap();
    assert_eq!((before, now), ([0; 4096], [1; 4096]));
    disk.check().unwrap();
}

#[test]
fn a_device_of_which_nothing_is_counted_is_refused() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(device) = LoopDevice::attach(&dir, "disk", 32) else { return };
    let name = device.path().file_name().unwrap().to_str().unwrap();
    let setting = format!("/sys/block/{name}/queue/iostats");
    std::fs::write(&setting, "0").unwrap();
    let refused = hold(&source(device.path()));
    std::fs::write(&setting, "1").unwrap();
    let error = refused.unwrap_err();
    assert!(matches!(error, SnapshotError::Uncounted { .. }), "{error:?}");
    assert_eq!(error.detail().code, "disk_unsupported");
    held(device.path()).check().unwrap();
}
