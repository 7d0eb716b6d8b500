use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

pub const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A disk image. Everything random in it comes from seeds.
#[derive(Debug)]
pub struct Image {
    pub path: PathBuf,
}

impl Image {
    /// Random bytes from end to end: nothing to compress, no zeros.
    #[must_use]
    pub fn random(path: &Path, size_bytes: u64, seed: u64) -> Self {
        File::create(path).unwrap().set_len(size_bytes).unwrap();
        let image = Self { path: path.to_owned() };
        image.fill(0, size_bytes, seed);
        image
    }

    /// A real ext4 with files of all kinds in it (text, noise, holes, many small ones), and bytes behind its end.
    #[must_use]
    pub fn with_ext4(path: &Path, filesystem_bytes: u64, size_bytes: u64, seed: u64) -> Self {
        let content = tempfile::tempdir().unwrap();
        make_content(content.path(), filesystem_bytes / 3, seed);
        File::create(path).unwrap().set_len(filesystem_bytes).unwrap();
        let mut command = tool("mke2fs");
        command.args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-U",
            "6e8f2c10-0000-4000-8000-000000000001",
            "-d",
        ]);
        command.arg(content.path()).args(["-E", "hash_seed=6e8f2c10-0000-4000-8000-000000000002"]).arg(path);
        run(command.env("E2FSPROGS_FAKE_TIME", "1700000000"));
        let image = Self { path: path.to_owned() };
        image.resize(size_bytes);
        image.fill(filesystem_bytes, size_bytes - filesystem_bytes, seed);
        image
    }

    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    /// Cuts it off, or lengthens it with zeros.
    pub fn resize(&self, size_bytes: u64) {
        self.open().set_len(size_bytes).unwrap();
    }

    /// Overwrites a range with random bytes.
    pub fn fill(&self, offset: u64, length: u64, seed: u64) {
        let file = self.open();
        let mut random = StdRng::seed_from_u64(seed);
        let mut done = 0;
        let mut buffer = vec![0; usize::try_from(MIB).unwrap()];
        while done < length {
            let part = usize::try_from((length - done).min(MIB)).unwrap();
            random.fill_bytes(&mut buffer[..part]);
            file.write_all_at(&buffer[..part], offset + done).unwrap();
            done += part as u64;
        }
    }

    /// Overwrites whole blocks here and there with random bytes.
    pub fn scatter(&self, blocks: u64, seed: u64) {
        let file = self.open();
        let mut random = StdRng::seed_from_u64(seed);
        let count = self.size_bytes() / BLOCK;
        let mut block = vec![0; usize::try_from(BLOCK).unwrap()];
        for _ in 0..blocks {
            random.fill_bytes(&mut block);
            file.write_all_at(&block, random.random_range(0..count) * BLOCK).unwrap();
        }
    }

    /// Changes the ext4 in it as a running system does: adds a file, removes another one, punches nothing by hand.
    pub fn change_files(&self, added_bytes: u64, seed: u64) {
        let folder = tempfile::tempdir().unwrap();
        let added = Self::random(&folder.path().join("added"), added_bytes, seed);
        for request in [format!("write {} added-{seed}", added.path.display()), "rm text-0".to_owned()] {
            run(tool("debugfs").args(["-w", "-R", &request]).arg(&self.path));
        }
    }

    /// Keeps a copy as it is now.
    pub fn copy(&self, to: &Path) {
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&self.path).arg(to));
    }

    fn open(&self) -> File {
        OpenOptions::new().write(true).open(&self.path).unwrap()
    }
}

/// How many blocks of `new` are not what they are in `old`; those beyond the end of `old` count unless they are zero.
#[must_use]
pub fn changed_blocks(old: &Path, new: &Path) -> u64 {
    let mut changed = 0;
    each_block(old, new, |old, new| changed += u64::from(old != new && !(old.is_empty() && is_zero(new))));
    changed
}

/// Fails at the first byte that differs.
pub fn assert_same(expected: &Path, actual: &Path) {
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert_eq!(size(expected), size(actual), "sizes of {} and {}", expected.display(), actual.display());
    let mut number = 0_u64;
    each_block(expected, actual, |old, new| {
        assert!(old == new, "block {number} of {} is not that of {}", actual.display(), expected.display());
        number += 1;
    });
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn each_block(old: &Path, new: &Path, mut look: impl FnMut(&[u8], &[u8])) {
    let (mut old, mut new) = (File::open(old).unwrap(), File::open(new).unwrap());
    let length = usize::try_from(4 * MIB).unwrap();
    let (mut old_part, mut new_part) = (Vec::with_capacity(length), Vec::with_capacity(length));
    let block = usize::try_from(BLOCK).unwrap();
    loop {
        old_part.clear();
        new_part.clear();
        (&mut old).take(length as u64).read_to_end(&mut old_part).unwrap();
        (&mut new).take(length as u64).read_to_end(&mut new_part).unwrap();
        if new_part.is_empty() {
            return;
        }
        for start in (0..new_part.len()).step_by(block) {
            let part = |bytes: &[u8]| start.min(bytes.len())..(start + block).min(bytes.len());
            look(&old_part[part(&old_part)], &new_part[part(&new_part)]);
        }
    }
}

fn make_content(folder: &Path, bytes: u64, seed: u64) {
    let text: Vec<u8> =
        (0..200_000_u32).flat_map(|number| format!("line {number} of a log\n").into_bytes()).collect();
    for number in 0..3 {
        fs::write(folder.join(format!("text-{number}")), &text).unwrap();
    }
    let _ = Image::random(&folder.join("noise"), bytes - 16 * MIB, seed);
    let holes = File::create(folder.join("holes")).unwrap();
    holes.set_len(64 * MIB).unwrap();
    holes.write_all_at(b"in the middle of nothing", 31 * MIB + 5).unwrap();
    fs::create_dir(folder.join("small")).unwrap();
    for number in 0..500 {
        fs::write(folder.join(format!("small/{number}")), format!("{seed} {number}\n")).unwrap();
    }
}

/// The tools of ext4 are not on everybody's path.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
