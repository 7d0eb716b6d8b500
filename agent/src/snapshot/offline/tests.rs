use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::testing::skip::tool;

fn source(path: &Path) -> DiskSource {
    DiskSource { name: "data".to_owned(), path: path.to_owned() }
}

/// Somebody else's `losetup --find` may have opened the device that it did not get, for an instant.
pub(in crate::snapshot) fn held(path: &Path) -> SnapshotDisk {
    let is_in_use = |held: &Result<_, _>| matches!(held, Err(SnapshotError::InUse { .. }));
    let mut held = hold(&source(path));
    for _ in 0..20 {
        if !is_in_use(&held) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        held = hold(&source(path));
    }
    held.unwrap()
}

fn image() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.raw");
    std::fs::write(&path, vec![7; 10_000]).unwrap();
    (dir, path)
}

#[test]
fn an_unused_file_is_held_with_its_size() {
    let (_dir, path) = image();
    let disk = hold(&source(&path)).unwrap();
    assert_eq!((disk.size_bytes, disk.hold), (10_000, Hold::Lease));
    File::open(&path).unwrap();
    disk.check().unwrap();
}

#[test]
fn a_file_that_is_open_for_writing_is_in_use() {
    let (_dir, path) = image();
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let error = hold(&source(&path)).unwrap_err();
    assert_eq!(error.detail().code, "disk_in_use");
    assert!(!error.detail().action.is_empty());
    drop(writer);
    hold(&source(&path)).unwrap();
}

#[test]
fn a_writer_is_noticed_before_it_can_write_and_then_let_go() {
    let (_dir, path) = image();
    let disk = hold(&source(&path)).unwrap();
    let began = Instant::now();
    let writer = std::thread::spawn(move || {
        OpenOptions::new().write(true).open(path).unwrap().write_all(b"new").unwrap();
    });
    while disk.check().is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "the waiting writer was never noticed");
        std::thread::sleep(Duration::from_millis(5));
    }
    writer.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "the writer was kept waiting");
    assert_eq!(disk.check().unwrap_err().detail().code, "disk_in_use", "broken once, broken for good");
}

#[test]
fn a_writer_that_does_not_wait_breaks_it_as_well() {
    let (_dir, path) = image();
    let disk = hold(&source(&path)).unwrap();
    let attempt = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    assert_eq!(attempt.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(disk.check().unwrap_err().detail().code, "disk_in_use");
    OpenOptions::new().write(true).open(&path).unwrap();
}

#[test]
fn what_is_missing_or_no_disk_is_named_so() {
    let (dir, _) = image();
    let missing = hold(&source(&dir.path().join("missing"))).unwrap_err();
    assert_eq!(missing.detail().code, "disk_not_found");
    let directory = hold(&source(dir.path())).unwrap_err();
    assert_eq!(directory.detail().code, "disk_unsupported");
}

struct LoopDevice(String);

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_mounted_device_and_the_image_behind_it_are_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let image_text = image.to_str().unwrap();
    let Some(device) = tool("losetup", &["--show", "-f", image_text]) else { return };
    let device = LoopDevice(device);
    assert_eq!(hold(&source(&image)).unwrap_err().detail().code, "disk_in_use", "image of a loop device");

    let disk = held(Path::new(&device.0));
    assert_eq!(disk.size_bytes, 16 << 20);
    assert!(matches!(disk.hold, Hold::Exclusive(_)));
    drop(disk);

    let Some(_) = tool("mkfs.ext4", &["-q", &device.0]) else { return };
    let mount_point = dir.path().join("mnt");
    std::fs::create_dir(&mount_point).unwrap();
    let mount_point = mount_point.to_str().unwrap().to_owned();
    let Some(_) = tool("mount", &[&device.0, &mount_point]) else { return };
    let mounted = Mounted(mount_point);
    assert_eq!(hold(&source(Path::new(&device.0))).unwrap_err().detail().code, "disk_in_use");
    drop(mounted);
    let disk = held(Path::new(&device.0));
    disk.check().unwrap();
}
