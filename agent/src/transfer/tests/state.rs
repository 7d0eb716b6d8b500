//! What backups leave in the agent's state directory.

use std::path::PathBuf;

use tonic::metadata::BinaryMetadataValue;

use super::*;
use crate::testing::gateway::KEY;

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
    ];
    let files = files_below(&machine.path().join("state"));
    assert!(files.iter().any(|file| file.ends_with("maps/data.map")), "{files:?}");
    for file in files {
        let content = std::fs::read(&file).unwrap();
        let has = |form: &Vec<u8>| content.windows(form.len()).any(|part| part == form.as_slice());
        assert!(!forms.iter().any(has), "{} has the key", file.display());
    }
}
