//! Machines that were made from one image, and what each stores: on the first day, and after a day of work of its own.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::Options;
use crate::holdfast::{Compression, Holdfast};
use crate::{Program as _, image, remove, size_of, warm};

const BLOCK: usize = 4096;

pub(crate) fn measure(options: &Options, clones: u32) {
    let folder = options.work.join("clones");
    remove(&folder);
    fs::create_dir_all(&folder).unwrap();
    let (mut holdfast, folders) = Holdfast::without_agents(&folder);
    println!(
        "| machine | first backup: s | stored MiB | of the first | a day later: changed MiB | stored MiB |"
    );
    println!("|---|---|---|---|---|---|");
    let mut first = 0;
    for number in 1..=clones {
        let machine = format!("clone-{number}");
        let disk = folder.join(format!("{machine}.raw"));
        fs::copy(image(options, "day1"), &disk).unwrap();
        holdfast.add(&folders, &machine, &disk, Compression::Usual);
        let (seconds, stored) = back_up(&holdfast, &machine, &disk);
        if number == 1 {
            first = stored;
        }
        let changed = work(options, &disk, number);
        let (_, later) = back_up(&holdfast, &machine, &disk);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "| {number} | {seconds:.2} | {:.2} | {:.2} % | {:.1} | {:.2} |",
            mib(stored),
            stored as f64 * 100.0 / first as f64,
            mib(changed),
            mib(later)
        );
        let restored = folder.join("restored.raw");
        let to = restored.to_str().unwrap();
        let _ = holdfast
            .cli()
            .run(&["restore", &format!("{machine}@latest"), "--disk", "disk", "--to", to])
            .succeeds();
        let same = std::process::Command::new("cmp").args([&restored, &disk]).status().unwrap();
        assert!(same.success(), "{machine} restored something else");
        remove(&restored);
        remove(&disk);
    }
    drop(holdfast);
    remove(&folder);
}

/// Seconds, and by how much the vault grew.
fn back_up(holdfast: &Holdfast, machine: &str, disk: &Path) -> (f64, u64) {
    warm(disk);
    let before = size_of(holdfast.repository());
    let start = std::time::Instant::now();
    let _ = holdfast.cli().run(&["backup", machine, "--wait"]).succeeds();
    (start.elapsed().as_secs_f64(), size_of(holdfast.repository()) - before)
}

/// Changes the blocks that the second day changes, on each machine to something else. Answers how many bytes.
fn work(options: &Options, disk: &Path, number: u32) -> u64 {
    let (day1, day2) = (fs::read(image(options, "day1")).unwrap(), fs::read(image(options, "day2")).unwrap());
    let file = fs::File::options().write(true).open(disk).unwrap();
    let mut changed = 0;
    for (at, (before, after)) in day1.chunks(BLOCK).zip(day2.chunks(BLOCK)).enumerate() {
        if before != after {
            let mut block = after.to_vec();
            for (byte, own) in block.iter_mut().zip(number.to_le_bytes()) {
                *byte ^= own;
            }
            file.write_all_at(&block, (at * BLOCK) as u64).unwrap();
            changed += block.len() as u64;
        }
    }
    changed
}
