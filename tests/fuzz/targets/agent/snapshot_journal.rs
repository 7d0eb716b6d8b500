//! Journals of snapshots: one is what was written, or it is set aside.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the agent's own files")]

mod durable;
mod journal;

use std::fs;

use holdfast_fuzz::vault::scratch;
use journal::{Journal, Journals};
use libfuzzer_sys::fuzz_target;

/// What a journal needs of the mounts.
mod mounts {
    use serde::{Deserialize, Serialize};

    /// As in the agent.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    pub(crate) struct DeviceNumber {
        pub(crate) major: u32,
        pub(crate) minor: u32,
    }
}

/// What a journal needs of the clones.
mod reflink {
    use holdfast_proto::ids::SnapshotId;

    /// As in the agent.
    pub(crate) struct CloneName {
        pub(crate) snapshot: SnapshotId,
        pub(crate) disk: String,
    }
}

fuzz_target!(|data: &[u8]| {
    let dir = scratch("journals");
    for entry in fs::read_dir(&dir).expect("it is there") {
        fs::remove_file(entry.expect("it is there").path()).expect("it is a file");
    }
    // Under the name that is its own, if it has one.
    let name = serde_json::from_slice::<Journal>(data).map(|journal| journal.id().to_string());
    let path = dir.join(format!("{}.json", name.as_deref().unwrap_or("none")));
    fs::write(&path, data).expect("it can be written");
    let journals = Journals::new(dir);
    let load = || journals.load().expect("a bad journal is no reason to stop");
    let loaded = load();
    assert_eq!(
        (loaded.len(), path.exists()),
        (usize::from(name.is_ok()), name.is_ok()),
        "the rest is set aside"
    );
    for journal in loaded {
        assert!(journal.clones.iter().all(|clone| journal.clone_name(clone).snapshot == journal.id()));
        journals.write(&journal).expect("it can be written");
        assert_eq!(load(), [journal.clone()], "a journal reads as what was written");
        journals.remove(journal.id());
        assert!(load().is_empty());
    }
});
