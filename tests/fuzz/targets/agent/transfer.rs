//! The part of `transfer` that reads block maps.

mod base;
mod map_file;
mod map_run;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use base::{Base, Known, MapMessage, RunSource};
use holdfast_fuzz::vault::scratch;
use holdfast_proto::v1::BlockMapRun;
use map_file::{MapKey, MapLog, RecordWriter};
use map_run::{MapRun, RunError};
use prost::Message as _;
use tokio::sync::mpsc;

const KEY: [u8; 32] = [3; 32];
/// Blocks that a scan asks for at once.
const ASKED: u64 = 64;
/// Pieces of a disk that are asked for.
const PIECES: usize = 2000;

fn key() -> MapKey {
    MapKey::new(&KEY, "a")
}

fn map_path() -> PathBuf {
    scratch("map").join("disk.map")
}

/// Opens bytes as the local map of a disk of so many blocks and reads it; appends to it what a backup would.
pub(crate) fn local(bytes: &[u8], block_count: u64) {
    let path = map_path();
    fs::write(&path, bytes).expect("it can be written");
    for id in [[0; 32], [1; 32]] {
        let Some(log) = MapLog::open(&path, key(), &id, block_count) else { continue };
        if !read(RunSource::Local(Box::new(log.reader())), block_count) {
            continue;
        }
        append(&path, &log, block_count);
    }
}

/// A map that reads takes one more record, and reads again with it.
fn append(path: &Path, log: &MapLog, block_count: u64) {
    let mut record = writer();
    record.hash(0, 5).and_then(|()| record.zeros(1, 2)).expect("it can be written");
    let body_bytes = record.finish().expect("it can be written");
    let (id, blocks) = ([2; 32], block_count.clamp(3, u64::MAX - 1));
    if !log.takes(body_bytes) {
        return;
    }
    log.append(path, record, id, blocks).expect("nothing else changes it");
    let log = MapLog::open(path, key(), &id, blocks).expect("what was appended is there");
    // A disk that became larger has blocks that no record speaks of.
    let whole = read(RunSource::Local(Box::new(log.reader())), blocks);
    assert!(whole || blocks > block_count || block_count > u64::from(u32::MAX), "an appended map reads");
}

/// Writes a real map: records of (gap, blocks, value), 0 for zeros.
pub(crate) fn write(records: &[(Vec<(u8, u8, u8)>, u8)], path: &Path) {
    let mut log: Option<(MapLog, u64)> = None;
    for (number, (runs, grow)) in records.iter().enumerate() {
        let mut record = writer();
        let mut at = 0;
        for (gap, count, value) in runs {
            let first = at + u64::from(*gap);
            at = first + u64::from(*count);
            if *value == 0 {
                record.zeros(first, u64::from(*count)).expect("it can be written");
            } else {
                (first..at).for_each(|block| record.hash(block, block + 1).expect("it can be written"));
            }
        }
        record.finish().expect("it can be written");
        let id = [u8::from(number + 1 == records.len()); 32];
        let blocks = at + u64::from(*grow);
        match log.take() {
            None => {
                record.seal(id, blocks).expect("it can be written");
                fs::rename(writer_path(), path).expect("it can be renamed");
            }
            Some((log, _)) => log.append(path, record, id, blocks).expect("nothing else changes it"),
        }
        log = MapLog::open(path, key(), &id, blocks).map(|log| (log, blocks));
    }
}

fn writer_path() -> PathBuf {
    scratch("map").join("pending")
}

fn writer() -> RecordWriter {
    let mut options = OpenOptions::new();
    let file: File = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(writer_path())
        .expect("it can be made");
    RecordWriter::create(file, key()).expect("it can be written")
}

/// Takes runs off the wire as the agent does, and looks them up as a scan does.
pub(crate) fn remote(lower: &[u8], upper: &[u8], block_count: u64) {
    let (lower, upper) = (fetched(lower), fetched(upper));
    let mut base = Base::new(lower, upper);
    ask(block_count, |first, count| base.known(first, count));
}

fn fetched(mut data: &[u8]) -> RunSource {
    let (sender, receiver) = mpsc::channel(1000);
    let mut next_block = 0;
    while !data.is_empty()
        && let Ok(run) = BlockMapRun::decode_length_delimited(&mut data)
        && let Ok(run) = MapRun::from_wire(run, next_block)
    {
        assert!(run.block_count() > 0 && run.first_block >= next_block, "runs ascend");
        next_block = run.end();
        if sender.try_send(MapMessage::Run(run)).is_err() {
            break;
        }
    }
    let _ = sender.try_send(MapMessage::End);
    RunSource::Fetched(receiver)
}

/// Whether the whole map reads.
fn read(source: RunSource, block_count: u64) -> bool {
    let mut base = Base::new(source, RunSource::Empty);
    ask(block_count, |first, count| base.known(first, count))
}

/// Asks for a disk's blocks in order. Whether each answer came.
fn ask(block_count: u64, mut known: impl FnMut(u64, u64) -> Result<Known, RunError>) -> bool {
    let mut at = 0;
    for piece in 0..PIECES {
        if at >= block_count {
            return true;
        }
        // Now and then all that is left, as for a hole of the disk.
        let asked = if piece % 5 == 4 { block_count - at } else { ASKED.min(block_count - at) };
        let Ok(known) = known(at, asked) else { return false };
        let count = known.block_count();
        assert!((1..=asked).contains(&count), "at least one block, at most those that were asked for");
        if let Known::Hashes(hashes) = &known {
            assert_eq!(hashes.len() as u64, count * 8);
            assert!(known.hash(0).is_some() && known.hash(usize::try_from(count).expect("few")).is_none());
        }
        at += count;
    }
    true
}
