//! Vaults of earlier versions, restored by the program with nothing but their keys.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use holdfast_vault_engine::cell_hash;

#[test]
fn every_golden_vault_restores() {
    for (format, disks) in [("1", 10), ("1-database", 5)] {
        let dir = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden").join(format);
        // Keys are only read if nobody else can.
        let key = dir.path().join("first.key");
        std::fs::copy(golden.join("first.key"), &key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let run = |args: &[&str]| -> Output {
            let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-vault"));
            command.arg("--vault").arg(golden.join("vault")).arg("--key").arg(&key).args(args);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stderr));
            output
        };
        let _ = run(&["check", "--read-data"]);
        let listed = String::from_utf8(run(&["list", "-o", "json"]).stdout).unwrap();
        let contents = std::fs::read_to_string(golden.join("contents")).unwrap();
        for line in contents.lines() {
            let [hash, _machine, _seq, point, disk, _state] =
                line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            assert!(listed.contains(point), "{format}: {point} is not listed");
            let to = dir.path().join(format!("{point}-{disk}"));
            let _ = run(&["restore", "--point", point, "--disk", disk, "--to", to.to_str().unwrap()]);
            let restored = cell_hash(&std::fs::read(&to).unwrap());
            let restored: String = restored.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(restored, hash, "{format}: disk {disk} of {point}");
        }
        assert_eq!(contents.lines().count(), disks, "{format}: {contents}");
    }
}
