//! Whole backups of a virtual machine's disk, by Holdfast (controller, agent and operator's client as processes of their own, over TLS)
//! and by other programs, in turn on the same two images. `tests/benchmark` builds everything and runs it.
//!
//! Only what a user waits for is timed: a command from its start to its end. Restored images are compared with the originals, always.
#![allow(clippy::unwrap_used)]

mod clones;
mod cost;
mod holdfast;
mod peer;
mod profile;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cost::Cost;
use holdfast::{Compression, Holdfast};
use peer::Peer;
use profile::profiled;
use report::{Report, Row};

/// What is measured, in this order; each with a new mtime and a warm page cache.
const DAYS: [(&str, &str); 3] = [("full", "day1"), ("incremental", "day2"), ("unchanged", "day2")];

struct Options {
    /// Has `day1.raw` and `day2.raw`.
    images: PathBuf,
    work: PathBuf,
    rounds: u32,
    programs: Vec<String>,
    /// Instead of programs side by side: so many machines that were made from one image.
    clones: Option<u32>,
    /// Where `perf` writes what each operation did.
    profile: Option<PathBuf>,
}

/// One program with one empty repository.
trait Program {
    fn back_up(&mut self, disk: &Path) -> Cost;
    fn restore(&mut self, to: &Path) -> Cost;
    /// Reads and checks all data of the repository, if it can.
    fn verify(&mut self) -> Option<Cost>;
    fn repository(&self) -> &Path;
}

fn main() {
    let options = options();
    fs::create_dir_all(&options.work).unwrap();
    if let Some(clones) = options.clones {
        return clones::measure(&options, clones);
    }
    let mut report = Report::default();
    for round in 1..=options.rounds {
        limits(&options, &mut report);
        for name in &options.programs {
            eprintln!("round {round} of {}: {name}", options.rounds);
            let folder = options.work.join("repository");
            remove(&folder);
            fs::create_dir(&folder).unwrap();
            let disk = options.work.join("disk.raw");
            show(&options, "day1", &disk);
            let mut program: Box<dyn Program> = match name.as_str() {
                "holdfast" => Box::new(Holdfast::start(&folder, &disk, Compression::Usual)),
                "holdfast-dense" => Box::new(Holdfast::start(&folder, &disk, Compression::Dense)),
                peer => Box::new(Peer::start(peer, &folder)),
            };
            measure(program.as_mut(), name, &disk, &options, &mut report);
            drop(program);
            remove(&folder);
        }
    }
    println!("{}", report.markdown());
}

fn measure(program: &mut dyn Program, name: &str, disk: &Path, options: &Options, report: &mut Report) {
    for (operation, day) in DAYS {
        show(options, day, disk);
        claim_memory();
        let cost = profiled(options.profile.as_deref(), operation, || program.back_up(disk));
        let stored = size_of(program.repository());
        report.add(Row::new(name, operation), cost, Some(stored));
    }
    warm(program.repository());
    let restored = options.work.join("restored");
    remove(&restored);
    fs::create_dir(&restored).unwrap();
    claim_memory();
    let profile = options.profile.as_deref();
    let cost = profiled(profile, "restore", || program.restore(&restored));
    report.add(Row::new(name, "restore"), cost, None);
    let file = only_file(&restored);
    let same = Command::new("cmp").arg(&file).arg(image(options, "day2")).status().unwrap();
    assert!(same.success(), "{name} restored something else");
    remove(&restored);
    if let Some(cost) = profiled(profile, "verify", || program.verify()) {
        report.add(Row::new(name, "verify"), cost, None);
    }
}

/// What the machine does with no backup program at all.
fn limits(options: &Options, report: &mut Report) {
    let day1 = image(options, "day1");
    warm(&day1);
    let copy = options.work.join("copy.raw");
    claim_memory();
    let mut cat = Command::new("cat");
    cat.arg(&day1);
    report.add(Row::new("(cat)", "read"), cost::of(cat), None);
    let mut cp = Command::new("cp");
    cp.args(["--reflink=never", "--sparse=always"]).arg(&day1).arg(&copy);
    report.add(Row::new("(cp --sparse)", "copy"), cost::of(cp), None);
    fs::remove_file(&copy).unwrap();
}

fn image(options: &Options, day: &str) -> PathBuf {
    options.images.join(format!("{day}.raw"))
}

/// A running machine's disk has another mtime at each backup; no program may skip reading it by its name alone.
fn show(options: &Options, day: &str, disk: &Path) {
    remove(disk);
    fs::hard_link(image(options, day), disk).unwrap();
    let file = fs::File::options().write(true).open(disk).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    warm(disk);
    assert!(Command::new("sync").status().unwrap().success());
}

/// Touches 2 GiB and frees them. A virtual machine whose hypervisor takes unused memory back pays for each page that it touches again,
/// several times what writing it costs; nobody's backup is to pay for that by chance.
fn claim_memory() {
    let memory = vec![1_u8; 2 << 30];
    std::hint::black_box(&memory);
}

fn warm(path: &Path) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            warm(&entry.unwrap().path());
        }
    } else if path.is_file() {
        std::io::copy(&mut fs::File::open(path).unwrap(), &mut std::io::sink()).unwrap();
    }
}

fn only_file(folder: &Path) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap();
    let path = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none(), "more than one thing in {}", folder.display());
    if path.is_dir() { only_file(&path) } else { path }
}

fn size_of(path: &Path) -> u64 {
    if path.is_dir() {
        fs::read_dir(path).unwrap().map(|entry| size_of(&entry.unwrap().path())).sum()
    } else {
        path.metadata().map_or(0, |found| found.len())
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.is_file() {
        fs::remove_file(path).unwrap();
    }
}

fn options() -> Options {
    const USAGE: &str =
        "usage: --images DIR --work DIR [--rounds N] [--programs A,B,...] [--clones N] [--profile DIR]";
    let mut options = Options {
        images: PathBuf::new(),
        work: PathBuf::new(),
        rounds: 3,
        clones: None,
        profile: None,
        programs: ["holdfast", "restic", "borg", "borg-fixed"].map(str::to_owned).to_vec(),
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(name) = args.next() {
        let value = args.next().expect(USAGE);
        match name.as_str() {
            "--images" => options.images = value.into(),
            "--work" => options.work = value.into(),
            "--rounds" => options.rounds = value.parse().expect(USAGE),
            "--profile" => options.profile = Some(value.into()),
            "--clones" => options.clones = Some(value.parse().expect(USAGE)),
            "--programs" => options.programs = value.split(',').map(str::to_owned).collect(),
            _ => panic!("{name}: {USAGE}"),
        }
    }
    assert!(options.images.is_dir() && options.work != Path::new(""), "{USAGE}");
    options
}
