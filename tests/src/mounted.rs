//! Disks in use: image files on an XFS of their own, an ext4 in each, mounted, with somebody who writes to all of them in turn.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::wait;

/// Followed by the number of the process that made it.
const FOLDER: &str = "mounted-disks-";
const POOL_MIB: u64 = 1024;
const DISK_MIB: u64 = 64;
/// Longer than any freeze may last.
const THAW_PATIENCE: Duration = Duration::from_secs(30);

/// Two disks in use. Needs root. Everything is taken down with it.
#[derive(Debug)]
pub struct MountedDisks {
    dir: PathBuf,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What a copy of the two disks says of its instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    pub first: u64,
    pub second: u64,
}

impl MountedDisks {
    pub const NAMES: [&'static str; 2] = ["first", "second"];

    /// Makes the disks in a folder of this process below `parent` and begins to write.
    #[must_use]
    pub fn make(parent: &Path) -> Self {
        take_down_leftovers();
        let dir = &parent.join(format!("{FOLDER}{}", std::process::id()));
        fs::create_dir_all(dir.join("pool")).unwrap();
        let mut disks = Self { dir: dir.clone(), writer: None };
        let pool = dir.join("pool.img");
        File::create(&pool).unwrap().set_len(POOL_MIB << 20).unwrap();
        run("mkfs.xfs", &["-q", "-m", "reflink=1", path(&pool)]);
        run("mount", &["-o", "loop", path(&pool), path(&dir.join("pool"))]);
        for name in Self::NAMES {
            let image = disks.image(name);
            File::create(&image).unwrap().set_len(DISK_MIB << 20).unwrap();
            run("mkfs.ext4", &["-q", "-F", path(&image)]);
            fs::create_dir_all(disks.mount_point(name)).unwrap();
            run("mount", &["-o", "loop", path(&image), path(&disks.mount_point(name))]);
        }
        disks.start_writing();
        disks
    }

    #[must_use]
    pub fn image(&self, name: &str) -> PathBuf {
        self.dir.join("pool").join(format!("{name}.raw"))
    }

    #[must_use]
    pub fn mount_point(&self, name: &str) -> PathBuf {
        self.dir.join(format!("mnt-{name}"))
    }

    #[must_use]
    pub fn with_paths(&self) -> [(&'static str, PathBuf); 2] {
        Self::NAMES.map(|name| (name, self.image(name)))
    }

    /// The newest number that is on both disks for certain.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.acknowledged.load(Ordering::SeqCst))
    }

    /// Waits until both disks take writes again.
    pub fn assert_writable(&self) {
        let before = self.acknowledged();
        wait::until("the disks to take writes", THAW_PATIENCE, || {
            (self.acknowledged() >= before + 2).then_some(())
        });
    }

    /// Adds a file of this size to a disk.
    pub fn add_file(&self, disk: &str, name: &str, bytes: u64, seed: u64) {
        let _ = crate::Image::random(&self.mount_point(disk).join(name), bytes, seed);
    }

    /// No snapshot is left anywhere.
    pub fn assert_no_leftovers(&self) {
        let folder = self.dir.join("pool/.holdfast-snapshots");
        wait::until("the snapshots to go", THAW_PATIENCE, || {
            let left = fs::read_dir(&folder).map_or(0, Iterator::count);
            (left == 0).then_some(())
        });
    }

    /// Kills every process of this program that has one of the disks' file systems open; answers how many.
    pub fn kill_holders(&self, program: &str) -> usize {
        let mut killed = 0;
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let holds = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten().any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(&self.dir) && target.is_dir())
            });
            let is_it = fs::read_link(process.path().join("exe"))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program));
            if holds && is_it {
                let pid = process.file_name().into_string().unwrap().parse().unwrap();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                killed += 1;
            }
        }
        killed
    }

    fn start_writing(&mut self) {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let files = Self::NAMES.map(|name| self.mount_point(name).join("number"));
        let thread = std::thread::spawn({
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            move || {
                let mut logs =
                    files.map(|file| OpenOptions::new().create(true).append(true).open(file).unwrap());
                for number in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // The second one never has a number that the first one has not.
                    for log in &mut logs {
                        writeln!(log, "{number}").unwrap();
                        log.sync_all().unwrap();
                    }
                    acknowledged.store(number, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        self.writer = Some(Writer { acknowledged, stop, thread });
    }
}

impl Instant {
    /// Checks copies of the two disks and reads their numbers.
    ///
    /// # Panics
    /// If a file system is not clean, a number is missing, or the two are not of one instant.
    #[must_use]
    pub fn of(first: &Path, second: &Path) -> Self {
        let [first, second] = [first, second].map(|disk| {
            run("e2fsck", &["-fn", path(disk)]);
            let text = run("debugfs", &["-R", "cat number", path(disk)]);
            let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
            assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "numbers are missing: {text}");
            numbers.len() as u64
        });
        assert!(first == second || first == second + 1, "not one instant: {first} and {second}");
        Self { first, second }
    }
}

impl Drop for MountedDisks {
    fn drop(&mut self) {
        for name in Self::NAMES {
            // A frozen one could not be unmounted, and would stay for ever.
            let _ =
                Command::new("fsfreeze").arg("-u").arg(self.mount_point(name)).stderr(Stdio::null()).status();
        }
        if let Some(writer) = self.writer.take() {
            writer.stop.store(true, Ordering::SeqCst);
            let _ = writer.thread.join();
        }
        for at in [self.mount_point("first"), self.mount_point("second"), self.dir.join("pool")] {
            let status = Command::new("umount").arg("-d").arg(&at).stderr(Stdio::null()).status();
            if !status.is_ok_and(|status| status.success()) {
                let _ = Command::new("umount").args(["-l", "-d"]).arg(&at).stderr(Stdio::null()).status();
            }
        }
    }
}

/// Thaws and unmounts what tests left that were killed.
fn take_down_leftovers() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    // The newest first: they lie on the others.
    for at in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        let owner = at.split_once(FOLDER).and_then(|(_, rest)| rest.split('/').next());
        let is_dead = |pid: &str| Path::new("/proc").join(pid).try_exists().is_ok_and(|lives| !lives);
        if owner.is_some_and(is_dead) {
            for (program, options) in [("fsfreeze", &["-u"][..]), ("umount", &["-l", "-d"])] {
                let _ = Command::new(program).args(options).arg(at).stderr(Stdio::null()).status();
            }
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) -> String {
    let search = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new(program).args(args).env("PATH", search).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}{errors}");
    text
}
