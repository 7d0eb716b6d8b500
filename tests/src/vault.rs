use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{self, Answer};
use crate::program;

/// A vault as `holdfast-vault` sees it: a folder and a key.
#[derive(Clone, Debug)]
pub struct VaultTool {
    pub vault: PathBuf,
    pub key: PathBuf,
}

impl VaultTool {
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Answer {
        let mut command = program::command("holdfast-vault");
        command.arg("--vault").arg(&self.vault).arg("--key").arg(&self.key).args(args);
        cli::finish(&format!("holdfast-vault {}", args.join(" ")), command)
    }

    #[must_use]
    pub fn points(&self) -> Vec<Value> {
        self.run(&["list", "-o", "json"]).succeeds().json().as_array().unwrap().clone()
    }

    /// Ids of all points; a damaged one fails the test.
    #[must_use]
    pub fn point_ids(&self) -> BTreeSet<String> {
        let points = self.points();
        points
            .iter()
            .map(|point| point["id"].as_str().unwrap_or_else(|| panic!("{point}")).to_owned())
            .collect()
    }

    /// Bytes of all segments: what was sent and acknowledged, once for each time that it was sent.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        size_of(&self.vault.join("seg"))
    }
}

fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            // Half a segment of a writer that was killed: it has no name of a segment, so nobody was told that it is there.
            Ok(_) if entry.file_name().to_string_lossy().contains('#') => 0,
            Ok(found) => found.len(),
            // A temporary file that has its name by now.
            Err(_) => 0,
        }
    };
    entries.map(size).sum()
}
