use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::config::SnapshotConfig;
use crate::disk::DiskSource;
use crate::snapshot::journal::Journals;
use crate::snapshot::mounts::Mounts;
use crate::snapshot::reflink::DIRECTORY;
use crate::testing::loop_disk::{LoopDir, Mounted, Writer};
use crate::testing::skip::{has_failpoints_or_skips, tool};

/// What a test takes snapshots with.
struct Bench {
    state: PathBuf,
    limits: SnapshotConfig,
}

impl Bench {
    fn new(dir: &LoopDir) -> Self {
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        Self { state, limits: SnapshotConfig::default() }
    }

    fn journals(&self) -> Journals {
        Journals::new(self.state.clone())
    }

    fn prepare(&self, disks: &[(&str, &Path)], minimum: Consistency) -> Result<Prepared, SnapshotError> {
        let sources = disks
            .iter()
            .map(|(name, path)| DiskSource { name: (*name).to_owned(), path: (*path).to_owned() })
            .collect();
        let needed = vec![("the state directory".to_owned(), File::open(&self.state).unwrap())];
        let order = Order { sources, minimum, needed, limits: self.limits.clone() };
        prepare(Undertaking::begin(self.journals(), StepId::generate()), order)
    }

    fn take(&self, disks: &[(&str, &Path)], minimum: Consistency) -> Result<Fresh, SnapshotError> {
        self.prepare(disks, minimum)?.take()
    }

    fn refused(&self, disks: &[(&str, &Path)], minimum: Consistency) -> ErrorDetail {
        let detail = self.take(disks, minimum).unwrap_err().detail();
        assert!(self.journals().load().unwrap().is_empty(), "{detail:?}");
        detail
    }

    fn assert_nothing_is_left(&self, outer: &Mounted) {
        let clones = outer.mount_point.join(DIRECTORY);
        let began = Instant::now();
        while !(self.journals().load().unwrap().is_empty() && is_empty(&clones)) {
            assert!(began.elapsed() < Duration::from_secs(20), "something is left in {}", clones.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// The file system on a clone is as clean as one that was unmounted.
fn assert_clean(clone: &Path) {
    assert!(tool("e2fsck", &["-fn", clone.to_str().unwrap()]).is_some(), "e2fsck found damage");
    let features = tool("dumpe2fs", &["-h", clone.to_str().unwrap()]).unwrap();
    assert!(!features.contains("needs_recovery"), "the clone was made while something was written");
}

fn round_of(image: &Path, name: &str, dir: &LoopDir) -> u64 {
    let mounted = Mounted::mount(image, &dir.path().join("look")).unwrap();
    let mut round = [0; 8];
    File::open(mounted.mount_point.join(name)).unwrap().read_exact_at(&mut round, 0).unwrap();
    u64::from_le_bytes(round)
}

#[test]
fn an_image_in_use_is_cloned_clean_while_it_is_written() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let bench = Bench::new(&dir);
    let writer = Writer::start(vec![disk.mount_point.join("round")]);
    for _ in 0..3 {
        let fresh = bench.take(&[("data", &disk.image)], Consistency::FileSystem).unwrap();
        assert_eq!(fresh.consistency, Consistency::FileSystem);
        assert!(fresh.warnings.is_empty());
        let snapshot = fresh.keep().unwrap();
        writer.wait_for(3);
        let clone = &snapshot.disks[0];
        assert_eq!((clone.size_bytes, clone.hold), (64 << 20, Hold::Clone));
        clone.check().unwrap();
        assert_clean(&clone.path);
        let directory = outer.mount_point.join(DIRECTORY).metadata().unwrap();
        assert_eq!((directory.mode() & 0o7777, directory.uid()), (0o700, 0));
        crate::snapshot::undertaking::undo(&bench.journals(), snapshot.journal.as_ref().unwrap()).unwrap();
        bench.assert_nothing_is_left(&outer);
    }
}

#[test]
fn two_disks_are_of_one_instant() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let (Some(first), Some(second)) = (dir.disk_on(&outer, "first"), dir.disk_on(&outer, "second")) else {
        return;
    };
    let bench = Bench::new(&dir);
    let writer = Writer::start(vec![first.mount_point.join("round"), second.mount_point.join("round")]);
    // Room for many rounds between one clone and the next, if anything could be written then.
    fail::cfg("agent::disk_cloned", "sleep(150)").unwrap();
    let mut seen = Vec::new();
    for round in 0..5 {
        writer.wait_for(round);
        // The disk that is written first is cloned last: clones of different instants would show it.
        let disks = [("second", second.image.as_path()), ("first", first.image.as_path())];
        let fresh = bench.take(&disks, Consistency::FileSystem).unwrap();
        let in_second = round_of(&fresh.disks[0].path, "round", &dir);
        let in_first = round_of(&fresh.disks[1].path, "round", &dir);
        assert!(in_second <= in_first && in_first <= in_second + 1, "{in_first} and {in_second}");
        seen.push(in_first);
    }
    fail::remove("agent::disk_cloned");
    drop(writer);
    assert!(seen.is_sorted() && seen[0] > 0 && seen[0] < seen[4], "{seen:?}");
    bench.assert_nothing_is_left(&outer);
}

#[test]
fn btrfs_clones_as_well_also_images_without_copy_on_write() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.btrfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let nocow = outer.mount_point.join("nocow.raw");
    std::fs::write(&nocow, b"").unwrap();
    if tool("chattr", &["+C", nocow.to_str().unwrap()]).is_none() {
        return;
    }
    std::fs::write(&nocow, vec![3; 1 << 20]).unwrap();
    let _in_use = OpenOptions::new().write(true).open(&nocow).unwrap();
    let bench = Bench::new(&dir);
    let _writer = Writer::start(vec![disk.mount_point.join("round")]);
    let fresh = bench.take(&[("data", &disk.image)], Consistency::FileSystem).unwrap();
    assert_clean(&fresh.disks[0].path);
    drop(fresh);
    let fresh = bench.take(&[("nocow", &nocow)], Consistency::Crash).unwrap();
    assert_eq!(std::fs::read(&fresh.disks[0].path).unwrap(), vec![3; 1 << 20]);
    drop(fresh);
    bench.assert_nothing_is_left(&outer);
}

#[test]
fn idle_and_busy_disks_make_one_set() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(busy) = dir.disk_on(&outer, "busy") else { return };
    let idle = outer.mount_point.join("idle.raw");
    std::fs::write(&idle, [1; 8192]).unwrap();
    let bench = Bench::new(&dir);
    let fresh = bench.take(&[("idle", &idle), ("busy", &busy.image)], Consistency::FileSystem).unwrap();
    let holds: Vec<Hold> = fresh.disks.iter().map(|disk| disk.hold).collect();
    assert_eq!(holds, [Hold::Lease, Hold::Clone]);
    let snapshot = fresh.keep().unwrap();
    assert_eq!(snapshot.journal.as_ref().unwrap().phase, Phase::Bound);
    snapshot.disks.iter().for_each(|disk| disk.check().unwrap());

    // Nobody uses it: nothing is cloned, and nothing has to be undone.
    let fresh = bench.take(&[("idle", &idle)], Consistency::FileSystem).unwrap();
    assert!(fresh.keep().unwrap().journal.is_none());
}

#[test]
fn what_uses_an_image_and_cannot_be_frozen_makes_it_crash_consistent_at_best() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let image = outer.mount_point.join("vm.raw");
    std::fs::write(&image, vec![5; 1 << 20]).unwrap();
    let _machine = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let bench = Bench::new(&dir);
    let detail = bench.refused(&[("vm", &image)], Consistency::FileSystem);
    assert_eq!(detail.code, "disk_in_use");
    assert!(detail.action.contains("crash"), "{detail:?}");
    let fresh = bench.take(&[("vm", &image)], Consistency::Crash).unwrap();
    assert_eq!(fresh.consistency, Consistency::Crash);
    assert_eq!(std::fs::read(&fresh.disks[0].path).unwrap(), vec![5; 1 << 20]);
}

#[test]
fn images_that_are_too_fragmented_are_refused_before_anything_is_frozen() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let mut bench = Bench::new(&dir);
    bench.limits.max_extents = 2;
    let detail = bench.refused(&[("data", &disk.image)], Consistency::FileSystem);
    assert_eq!(detail.code, "disk_fragmented");
    assert!(detail.message.contains("more than 2 ") && !detail.action.is_empty(), "{detail:?}");
    assert!(!disk.is_frozen());
}

#[test]
fn a_file_system_that_cannot_clone_says_what_would_help() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.ext4("plain") else { return };
    let image = outer.mount_point.join("vm.raw");
    std::fs::write(&image, [5; 8192]).unwrap();
    let _machine = OpenOptions::new().write(true).open(&image).unwrap();
    let detail = Bench::new(&dir).refused(&[("vm", &image)], Consistency::Crash);
    assert_eq!(detail.code, "disk_in_use");
    assert!(detail.action.contains("XFS"), "{detail:?}");
    assert!(!outer.mount_point.join(DIRECTORY).try_exists().unwrap());
}

#[test]
fn what_the_agent_needs_is_not_frozen() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let mut bench = Bench::new(&dir);
    bench.state = disk.mount_point.join("state");
    std::fs::create_dir(&bench.state).unwrap();
    let detail = bench.refused(&[("data", &disk.image)], Consistency::FileSystem);
    assert_eq!(detail.code, "freeze_refused");
    assert!(detail.message.contains("state directory"), "{detail:?}");
    assert!(!disk.is_frozen());
}

#[test]
fn a_freeze_that_takes_too_long_leaves_nothing() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let mut bench = Bench::new(&dir);
    let writer = Writer::start(vec![disk.mount_point.join("round")]);
    bench.limits.freeze_limit = Duration::from_millis(1);
    let detail = bench.take(&[("data", &disk.image)], Consistency::FileSystem).unwrap_err().detail();
    assert_eq!((detail.code.as_str(), detail.retryable), ("freeze_timed_out", true));
    writer.wait_for(3);
    bench.assert_nothing_is_left(&outer);
}

#[test]
fn clones_that_were_made_after_the_time_was_up_are_no_snapshot() {
    if !has_failpoints_or_skips() {
        return;
    }
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let mut bench = Bench::new(&dir);
    bench.limits.freeze_limit = Duration::from_secs(1);
    let writer = Writer::start(vec![disk.mount_point.join("round")]);
    fail::cfg("agent::frozen", "sleep(2000)").unwrap();
    let taken = bench.take(&[("data", &disk.image)], Consistency::FileSystem);
    fail::remove("agent::frozen");
    let detail = taken.unwrap_err().detail();
    assert_eq!((detail.code.as_str(), detail.retryable), ("freeze_timed_out", true));
    bench.assert_nothing_is_left(&outer);
    writer.wait_for(3);
    drop(bench.take(&[("data", &disk.image)], Consistency::FileSystem).unwrap());
}

#[test]
fn a_mount_that_came_after_the_preparation_is_noticed() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let Some(late) = dir.disk_on(&outer, "late") else { return };
    let late_image = late.image.clone();
    drop(late);
    let bench = Bench::new(&dir);
    let _in_use = OpenOptions::new().write(true).open(&late_image).unwrap();
    let prepared =
        bench.prepare(&[("data", &disk.image), ("late", &late_image)], Consistency::Crash).unwrap();
    let late = Mounted::mount(&late_image, &dir.path().join("late")).unwrap();
    let detail = prepared.take().unwrap_err().detail();
    assert_eq!((detail.code.as_str(), detail.retryable), ("freeze_failed", true), "{detail:?}");
    drop(late);
    bench.assert_nothing_is_left(&outer);
}

#[test]
fn a_freeze_that_hangs_is_given_up_and_undone_once_the_storage_answers() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let mut bench = Bench::new(&dir);
    bench.limits.freeze_limit = Duration::from_secs(1);
    let prepared = bench.prepare(&[("data", &disk.image)], Consistency::FileSystem).unwrap();
    std::fs::write(disk.mount_point.join("dirty"), vec![1; 1 << 20]).unwrap();
    outer.freeze();
    let (taking, began) = (std::thread::spawn(move || prepared.take()), Instant::now());
    while !taking.is_finished() && began.elapsed() < Duration::from_secs(9) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let is_given_up = taking.is_finished();
    // Before anything can fail: nothing here ends while it is frozen.
    outer.thaw();
    assert!(is_given_up, "it hung as long as the storage did");
    let detail = taking.join().unwrap().unwrap_err().detail();
    assert_eq!(detail.code, "freeze_timed_out");
    assert!(detail.message.contains("does not answer"), "{detail:?}");
    assert!(disk.is_writable_within(Duration::from_secs(20)));
    bench.assert_nothing_is_left(&outer);
}

#[test]
fn partitions_and_images_in_images_are_found_the_innermost_first() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let Some(disk) = dir.disk_on(&outer, "data") else { return };
    let Some(inner) = dir.disk_on(&disk, "inner") else { return };
    let mounts = Mounts::read().unwrap();
    let on = |path: &Path| mounts.lying_on(&[&path.metadata().unwrap()]).unwrap();
    let device =
        |mounted: &Mounted| mounts.file_system_of(File::open(&mounted.mount_point).unwrap()).unwrap();
    assert_eq!(on(&disk.image), [device(&inner), device(&disk)]);
    assert_eq!(on(&inner.image), [device(&inner)]);
    assert_eq!(on(&outer.image), [device(&inner), device(&disk), device(&outer)]);

    // One whose image lies on the other's file system: its clone would wait for the freeze.
    let bench = Bench::new(&dir);
    let disks = [("data", disk.image.as_path()), ("inner", inner.image.as_path())];
    let detail = bench.refused(&disks, Consistency::Crash);
    assert!(["freeze_refused", "disk_in_use"].contains(&detail.code.as_str()), "{detail:?}");
    let fresh = bench.take(&disks[..1], Consistency::FileSystem).unwrap();
    assert_clean(&fresh.disks[0].path);
}

#[test]
fn a_mounted_partition_is_frozen() {
    let Some(dir) = LoopDir::new() else { return };
    let Some(outer) = dir.xfs() else { return };
    let image = outer.mount_point.join("partitioned.raw");
    let file = File::create(&image).unwrap();
    file.set_len(64 << 20).unwrap();
    drop(file);
    let Some(device) = tool("losetup", &["--show", "-f", image.to_str().unwrap()]) else { return };
    let _detach = Detach(device.clone());
    let partition = format!("{device}p1");
    // 60 MiB from sector 2048 on. Told to the kernel, which may not read partition tables itself.
    if tool("addpart", &[&device, "1", "2048", "122880"]).is_none()
        || tool("mkfs.ext4", &["-q", &partition]).is_none()
    {
        return;
    }
    let mount_point = dir.path().join("partition");
    std::fs::create_dir(&mount_point).unwrap();
    if tool("mount", &[&partition, mount_point.to_str().unwrap()]).is_none() {
        return;
    }
    let _unmount = Unmount(mount_point.clone());
    std::fs::write(mount_point.join("file"), b"content").unwrap();
    let bench = Bench::new(&dir);
    let device = bench.refused(&[("device", Path::new(&device))], Consistency::Crash);
    assert_eq!(device.code, "disk_in_use");
    assert!(device.message.contains(mount_point.to_str().unwrap()), "{}", device.message);
    let fresh = bench.take(&[("data", &image)], Consistency::FileSystem).unwrap();
    assert_eq!(fresh.consistency, Consistency::FileSystem);
    let clone = format!("{}?offset={}", fresh.disks[0].path.display(), 2048 * 512);
    let features = tool("dumpe2fs", &["-h", &clone]).unwrap();
    assert!(features.contains("Filesystem state") && !features.contains("needs_recovery"), "{features}");
}

struct Detach(String);

impl Drop for Detach {
    fn drop(&mut self) {
        let _ = Command::new("delpart").args([&self.0, "1"]).status();
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
