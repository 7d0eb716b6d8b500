//! What backups leave in the agent's state directory.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use tonic::metadata::BinaryMetadataValue;

use super::*;
use crate::testing::gateway::KEY;
use crate::testing::skip::tool;

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// Who has it could make two blocks with one hash, and tell from a map which known blocks a disk has.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_block_hashes_is_never_written() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    let mut bytes = image(6 << 20, 4);
    let path = machine.disk("data", &bytes);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    for _ in 0..3 {
        gateway.reset_counters();
        must_succeed(&mut session).await;
        change(&mut bytes, 100);
        rewrite(&path, &bytes);
    }
    agent.stop().await;

    let base64 = BinaryMetadataValue::from_bytes(&KEY);
    let forms = [
        KEY.to_vec(),
        hex::encode(KEY).into_bytes(),
        hex::encode_upper(KEY).into_bytes(),
        base64.as_encoded_bytes().to_vec(),
        // As JSON has bytes; below without what separates them.
        KEY.map(|byte| byte.to_string()).join(",").into_bytes(),
    ];
    let files = files_below(&machine.path().join("state"));
    assert!(files.iter().any(|file| file.ends_with("maps/data.map")), "{files:?}");
    for file in files {
        let mut content = std::fs::read(&file).unwrap();
        let without_spaces: Vec<u8> =
            content.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        content.extend(without_spaces);
        let has = |form: &Vec<u8>| content.windows(form.len()).any(|part| part == form.as_slice());
        assert!(!forms.iter().any(has), "{} has the key", file.display());
    }
}

/// A file system of 1 MiB for the state directory of a machine.
struct SmallState(PathBuf);

impl SmallState {
    /// `None`, with the reason, if nothing can be mounted here.
    fn of(machine: &TestMachine) -> Option<Self> {
        let path = machine.path().join("state");
        std::fs::create_dir(&path).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=1m,mode=700", "holdfast-test", path.to_str().unwrap()];
        tool("mount", &options)?;
        Some(Self(path))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves so many bytes.
    fn fill(&self, free: u64) {
        let mut filler = File::create(self.filler()).unwrap();
        while filler.write_all(&[1; BLOCK]).is_ok() {}
        let length = filler.metadata().unwrap().len();
        filler.set_len(length - free).unwrap();
    }
}

impl Drop for SmallState {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_directory_costs_no_backup_and_is_used_again_once_it_has_space() {
    let mut controller = TestController::start().await;
    let gateway = controller.gateway.clone();
    let mut machine = TestMachine::new();
    let Some(state) = SmallState::of(&machine) else { return };
    let mut bytes = image(6 << 20, 4);
    let path = machine.disk("data", &bytes);
    let agent = machine.start(&controller);
    let mut session = controller.welcome().await;
    must_succeed(&mut session).await;

    // No room for what changed, for it but not for putting it in force, or for both.
    for free in [0, 4096, 16_384, 0] {
        state.fill(free);
        gateway.reset_counters();
        change(&mut bytes, 100);
        rewrite(&path, &bytes);
        must_succeed(&mut session).await;
        assert!(gateway.restore("data") == bytes, "with {free} bytes");
        assert_eq!(gateway.state().blocks_received, 100, "with {free} bytes");
    }
    std::fs::remove_file(state.filler()).unwrap();
    for _ in 0..2 {
        gateway.reset_counters();
        change(&mut bytes, 100);
        rewrite(&path, &bytes);
        must_succeed(&mut session).await;
        assert!(gateway.restore("data") == bytes);
    }
    assert!(gateway.state().map_reads.is_empty(), "the local map was not used");
    agent.stop().await;
}
