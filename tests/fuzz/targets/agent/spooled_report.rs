//! Files in the agent's spool: a report is the one that was put there, or set aside.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the agent's own files")]

mod attempt;
mod durable;
mod spool;

use std::fs;

use holdfast_fuzz::vault::scratch;
use libfuzzer_sys::fuzz_target;
use spool::Spool;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let dir = scratch("spool");
    for entry in fs::read_dir(&dir).expect("it is there") {
        fs::remove_file(entry.expect("it is there").path()).expect("it is a file");
    }
    let mut content = Vec::new();
    if mode & 1 == 0 {
        // Whole, but not by this version of the agent.
        content.extend_from_slice(blake3::hash(data).as_bytes());
    }
    content.extend_from_slice(data);
    let path = dir.join("one.report");
    fs::write(&path, &content).expect("it can be written");
    let spool = Spool::open(&dir).expect("a bad report is no reason to stop");
    let pending = spool.pending();
    assert_eq!(pending.len(), usize::from(path.exists()), "what is not taken is set aside");
    for (attempt, report) in pending {
        assert!(attempt.number >= 1);
        assert_eq!(attempt.to_wire().attempt, report.attempt.as_ref().expect("it has one").attempt);
        let sequence = report.sequence;
        spool.put(attempt, report).expect("it can be written");
        spool.acknowledge(attempt, i64::MAX).expect("it can be removed");
        assert!(!spool.holds(attempt), "acknowledged: {sequence}");
    }
});
