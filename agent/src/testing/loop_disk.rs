//! File systems on loop devices, for tests that freeze. Nothing of the machine itself is ever frozen: only what is
//! mounted here, below a directory of this process.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::kernel;
use crate::testing::skip::{skip, tool};

const PREFIX: &str = "hf-loop-";
const BLKIO: &str = "/sys/fs/cgroup/blkio";

/// A directory for loop images; only one exists at a time on this machine.
pub(crate) struct LoopDir {
    dir: tempfile::TempDir,
    _lock: File,
}

/// A file system on a loop device, mounted. Dropped, it is thawed, unmounted and detached.
pub(crate) struct Mounted {
    pub(crate) image: PathBuf,
    pub(crate) mount_point: PathBuf,
    device: String,
}

impl LoopDir {
    /// `None`, with the reason, where that is not possible.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("freezing file systems needs root");
            return None;
        }
        let lock = File::create(std::env::temp_dir().join("hf-loop.lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        clean_up_earlier_runs();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        Some(Self { dir, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A mounted XFS that can clone files.
    pub(crate) fn xfs(&self) -> Option<Mounted> {
        self.file_system("outer", 512, &["mkfs.xfs", "-q", "-f", "-m", "reflink=1"])
    }

    pub(crate) fn btrfs(&self) -> Option<Mounted> {
        self.file_system("outer", 512, &["mkfs.btrfs", "-q", "-f"])
    }

    pub(crate) fn ext4(&self, name: &str) -> Option<Mounted> {
        self.file_system(name, 64, &MKFS_EXT4)
    }

    fn file_system(&self, name: &str, mebibytes: u64, mkfs: &[&str]) -> Option<Mounted> {
        Mounted::make(&self.path().join(format!("{name}.img")), &self.path().join(name), mebibytes, mkfs)
    }

    /// A disk image that lies on `outer` and is mounted itself.
    pub(crate) fn disk_on(&self, outer: &Mounted, name: &str) -> Option<Mounted> {
        let image = outer.mount_point.join(format!("{name}.raw"));
        Mounted::make(&image, &self.path().join(format!("mnt-{name}")), 64, &MKFS_EXT4)
    }
}

/// A loop device without anything on it. Dropped, it is detached.
pub(crate) struct LoopDevice {
    path: PathBuf,
    partitions: Mutex<Vec<String>>,
}

impl LoopDevice {
    pub(crate) fn attach(dir: &LoopDir, name: &str, mebibytes: u64) -> Option<Self> {
        let image = dir.path().join(format!("{name}.img"));
        File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let path = tool("losetup", &["--show", "-f", image.to_str().unwrap()])?.into();
        Some(Self { path, partitions: Mutex::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a part of it a device of its own; in MiB.
    pub(crate) fn partition(&self, number: u32, start: u64, length: u64) -> Option<PathBuf> {
        let (device, number) = (self.path.to_str().unwrap(), number.to_string());
        let sectors = |mebibytes: u64| (mebibytes << 11).to_string();
        tool("addpart", &[device, &number, &sectors(start), &sectors(length)])?;
        let path = PathBuf::from(format!("{device}p{number}"));
        self.partitions.lock().unwrap().push(number);
        if !path.try_exists().unwrap() {
            skip(format_args!("no node {} appears here", path.display()));
            return None;
        }
        Some(path)
    }

    /// Makes this process wait for whatever it reads from it.
    pub(crate) fn hang(&self) -> Option<Hanging> {
        if !Path::new(BLKIO).try_exists().unwrap() {
            // Also with `CI` set: it is the host that has them, or version 2 alone.
            eprintln!("SKIPPED: reads are held up by control groups of version 1");
            return None;
        }
        let number = std::fs::metadata(&self.path).unwrap().rdev();
        let device = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        let group = Path::new(BLKIO).join(format!("{PREFIX}{}", std::process::id()));
        let mut hanging = Hanging { group, device, watchdog: None };
        if let Err(error) = hanging.begin() {
            skip(format_args!("reads cannot be held up here: {error}"));
            return None;
        }
        Some(hanging)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        for number in self.partitions.get_mut().unwrap() {
            let _ = Command::new("delpart").arg(&self.path).arg(number).status();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// Reads from a device hang, as they do when the storage behind it does not answer. Dropped, they go on.
pub(crate) struct Hanging {
    group: PathBuf,
    device: String,
    /// Lifts the limit when this process ends, however it does: a device that hangs keeps the others of its kind from being opened.
    watchdog: Option<Child>,
}

impl Hanging {
    fn begin(&mut self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.group)?;
        let mut watchdog = Command::new("setsid");
        watchdog.args(["sh", "-c", r#"cat; echo "$0 0" > "$1""#, &self.device]).arg(self.limit_file());
        self.watchdog = Some(watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
        // A byte per second.
        self.limit(1)?;
        std::fs::write(self.group.join("cgroup.procs"), std::process::id().to_string())
    }

    fn limit(&self, bytes: u32) -> std::io::Result<()> {
        std::fs::write(self.limit_file(), format!("{} {bytes}", self.device))
    }

    fn limit_file(&self) -> PathBuf {
        self.group.join("blkio.throttle.read_bps_device")
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            // With its input closed it ends by itself.
            let _ = watchdog.wait();
        }
        let _ = self.limit(0);
        let root = self.group.with_file_name("cgroup.procs");
        let _ = std::fs::write(root, std::process::id().to_string());
        let _ = std::fs::remove_dir(&self.group);
    }
}

const MKFS_EXT4: [&str; 2] = ["mkfs.ext4", "-q"];

impl Mounted {
    fn make(image: &Path, mount_point: &Path, mebibytes: u64, mkfs: &[&str]) -> Option<Self> {
        File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
        let mut arguments = mkfs[1..].to_vec();
        arguments.push(image.to_str().unwrap());
        tool(mkfs[0], &arguments)?;
        Self::mount(image, mount_point)
    }

    /// Mounts what is on an image.
    pub(crate) fn mount(image: &Path, mount_point: &Path) -> Option<Self> {
        std::fs::create_dir_all(mount_point).unwrap();
        let device = tool("losetup", &["--show", "-f", image.to_str().unwrap()])?;
        let mounted = Self { image: image.to_owned(), mount_point: mount_point.to_owned(), device };
        tool("mount", &[&mounted.device, mount_point.to_str().unwrap()])?;
        Some(mounted)
    }

    pub(crate) fn freeze(&self) {
        kernel::freeze(self.open().as_fd()).unwrap();
    }

    pub(crate) fn thaw(&self) {
        kernel::thaw(self.open().as_fd()).unwrap();
    }

    /// Looks by trying: not while something else is about to freeze it.
    pub(crate) fn is_frozen(&self) -> bool {
        match kernel::freeze(self.open().as_fd()) {
            Ok(()) => {
                self.thaw();
                false
            }
            Err(rustix::io::Errno::BUSY) => true,
            Err(errno) => panic!("{errno}"),
        }
    }

    /// Whether something can be written within this time.
    pub(crate) fn is_writable_within(&self, limit: Duration) -> bool {
        let path = self.mount_point.join("probe");
        let (sender, written) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut file = File::create(path).unwrap();
            file.write_all(b"probe").unwrap();
            file.sync_all().unwrap();
            let _ = sender.send(());
        });
        written.recv_timeout(limit).is_ok()
    }

    fn open(&self) -> File {
        File::open(&self.mount_point).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        clean_up(&self.mount_point, &self.device);
    }
}

/// Thaws as often as something that still runs freezes it again.
fn clean_up(mount_point: &Path, device: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_mount_point(mount_point) && Instant::now() < deadline {
        // Also what it lies on: a test that failed may have left that frozen, and unmounting would wait for it.
        let prefix = std::env::temp_dir().join(PREFIX);
        let is_ours = |path: &&PathBuf| path.to_string_lossy().starts_with(&*prefix.to_string_lossy());
        for file in mount_points().iter().filter(is_ours).filter_map(|path| File::open(path).ok()) {
            while kernel::thaw(file.as_fd()).is_ok() {}
        }
        let _ = Command::new("umount").arg(mount_point).stderr(std::process::Stdio::null()).status();
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = Command::new("losetup").args(["-d", device]).status();
}

fn is_mount_point(path: &Path) -> bool {
    mount_points().iter().any(|mount_point| mount_point == path)
}

fn mount_points() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// What a test that was killed left: mounts and loop devices below a directory of a process that is gone.
fn clean_up_earlier_runs() {
    let prefix = std::env::temp_dir().join(PREFIX);
    let is_left = |path: &Path| {
        let rest = path.to_str()?.strip_prefix(prefix.to_str()?)?;
        let process = rest.split_once('-')?.0.parse::<u32>().ok()?;
        (process != std::process::id() && !Path::new(&format!("/proc/{process}")).is_dir()).then_some(())
    };
    // The innermost were mounted last.
    for mount_point in mount_points().iter().rev().filter(|path| is_left(path).is_some()) {
        let source = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(mount_point).output();
        let device = source.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        clean_up(mount_point, &device.unwrap_or_default());
    }
    for entry in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if is_left(Path::new(backing.trim())).is_some() {
            let device = Path::new("/dev").join(entry.file_name());
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let path = entry.path();
        let is_empty_of_mounts = || !mount_points().iter().any(|mount_point| mount_point.starts_with(&path));
        if is_left(&path).is_some() && is_empty_of_mounts() {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// Writes and syncs without end.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    /// In each round the number of the round goes to all files, one after the other, each synced before the next.
    pub(crate) fn start(files: Vec<PathBuf>) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let round = rounds.load(Ordering::Relaxed) + 1;
                    for path in &files {
                        let mut file =
                            OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
                        file.write_all(&round.to_le_bytes()).unwrap();
                        file.sync_all().unwrap();
                        // Metadata as well: names come and go.
                        let name = path.with_extension((round % 50).to_string());
                        std::fs::write(&name, vec![u8::try_from(round % 251).unwrap(); 20_000]).unwrap();
                        let _ = std::fs::remove_file(path.with_extension(((round + 25) % 50).to_string()));
                    }
                    rounds.store(round, Ordering::Relaxed);
                }
            }
        });
        let writer = Self { stop, rounds, thread: Some(thread) };
        writer.wait_for(5);
        writer
    }

    /// Waits until so many more rounds are done.
    pub(crate) fn wait_for(&self, more: u64) {
        let (target, began) = (self.rounds.load(Ordering::Relaxed) + more, Instant::now());
        while self.rounds.load(Ordering::Relaxed) < target {
            assert!(began.elapsed() < Duration::from_secs(30), "the writer is stuck");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}
