//! The agent's block maps: its own file, sealed by nobody, right or wrong; runs that a gateway sends.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the agent's own files")]

mod transfer;

use arbitrary::{Arbitrary, Unstructured};
use holdfast_fuzz::vault::scratch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let Some((blocks, data)) = data.split_first_chunk() else { return };
    let blocks = u64::from_le_bytes(*blocks);
    match mode & 3 {
        0 => transfer::local(data, blocks),
        1 => written(data),
        2 => {
            let Some((len, data)) = data.split_first_chunk() else { return };
            let len = usize::from(u16::from_le_bytes(*len)).min(data.len());
            let (lower, upper) = data.split_at(len);
            transfer::remote(lower, upper, blocks);
        }
        _ => {}
    }
});

/// A map that the agent wrote, as it is or with a few bytes changed.
#[derive(Arbitrary, Debug)]
struct Written {
    records: Vec<(Vec<(u8, u8, u8)>, u8)>,
    edits: Vec<(u16, u8)>,
    blocks: Option<u16>,
}

fn written(data: &[u8]) {
    let Ok(mut written) = Written::arbitrary(&mut Unstructured::new(data)) else { return };
    written.records.truncate(5);
    let Some((runs, grow)) = written.records.last() else { return };
    let end: u64 = runs.iter().map(|(gap, count, _)| u64::from(*gap) + u64::from(*count)).sum();
    let blocks = written.blocks.map_or(end + u64::from(*grow), u64::from);
    let path = scratch("written").join("disk.map");
    transfer::write(&written.records, &path);
    let mut bytes = std::fs::read(&path).expect("it was written");
    for (at, bits) in &written.edits {
        let at = usize::from(*at) % bytes.len();
        bytes[at] ^= bits;
    }
    transfer::local(&bytes, blocks);
}
