//! What the operator's guide has to name is named: every error code, metric and configuration key of the sources.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const SOURCES: [&str; 5] = ["controller/src", "controller/gateway/src", "agent/src", "cli/src", "proto/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The Rust files below a folder without their unit tests.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "tests" && name != "testing" {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
                let text = fs::read_to_string(&path).unwrap();
                let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
                found.push((path, text[..end].to_owned()));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

/// What is quoted right after each `before`, if it is a word of code.
fn quoted_after<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
    text.match_indices(before)
        .filter_map(|(at, _)| text[at + before.len()..].trim_start().strip_prefix('"')?.split('"').next())
        .filter(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .collect()
}

/// The first column of the tables of a document.
fn rows(document: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs").join(document)).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("| "))
        .flat_map(|row| row.split('|').next().unwrap_or_default().split(','))
        .filter_map(|cell| Some(cell.trim().strip_prefix('`')?.split('`').next()?.to_owned()))
        .collect()
}

fn assert_documented(found: &BTreeSet<String>, least: usize, document: &str) {
    assert!(found.len() >= least, "the sources are read wrongly: {found:?}");
    let documented = rows(document);
    let missing: Vec<_> = found.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/{document} does not name {missing:?}");
}

#[test]
fn every_error_code_is_in_the_table() {
    let mut codes: BTreeSet<String> = BTreeSet::new();
    for (path, text) in SOURCES.into_iter().flat_map(sources) {
        for before in ["user_error(", "system_error(", "agent_error(", "invalid(", "code: "] {
            codes.extend(quoted_after(&text, before).into_iter().map(str::to_owned));
        }
        if path.ends_with("cli/src/error.rs") {
            let body = text.split("fn code(").nth(1).unwrap().split("fn action(").next().unwrap();
            codes.extend(quoted_after(body, "=>").into_iter().map(str::to_owned));
        }
        // Their codes are made of a noun.
        for noun in quoted_after(&text, "NotFound { noun: ") {
            codes.insert(format!("{noun}_not_found"));
        }
    }
    assert_documented(&codes, 80, "troubleshooting.md");
}

#[test]
fn every_metric_is_in_the_table() {
    let mut metrics: BTreeSet<String> = BTreeSet::new();
    for (_, text) in ["controller/src", "controller/gateway/src"].into_iter().flat_map(sources) {
        for before in ["gauge!(", "counter!(", "Counter(", "Gauge("] {
            metrics.extend(quoted_after(&text, before).into_iter().map(str::to_owned));
        }
    }
    assert_documented(&metrics, 12, "configuration.md");
}

#[test]
fn every_configuration_key_is_in_the_table() {
    let mut keys: BTreeSet<String> = BTreeSet::new();
    for (file, tables) in [
        ("controller/src/config/file.rs", &["struct File {"] as &[&str]),
        ("controller/src/config/timing.rs", &["struct Timing {"]),
        ("controller/src/config/limits.rs", &["struct Limits {"]),
        ("controller/src/config/retention.rs", &["struct RetentionConfig {"]),
        ("controller/src/config/vault.rs", &["struct S3Table {"]),
        ("agent/src/config.rs", &["struct Config {", "struct Timing {", "struct ConfiguredDisk {"]),
        ("agent/src/config/hooks.rs", &["struct HooksConfig {"]),
        ("agent/src/config/snapshot.rs", &["struct SnapshotConfig {"]),
        ("cli/src/settings.rs", &["struct File {"]),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        for table in tables {
            let body = text.split(table).nth(1).unwrap().split("\n}").next().unwrap();
            for line in body.lines().map(str::trim).filter(|line| !line.starts_with(['/', '#'])) {
                let Some((name, _)) = line.split_once(": ") else { continue };
                keys.insert(name.rsplit(' ').next().unwrap().to_owned());
            }
        }
    }
    // In the file they are the tables [[disk]], [timing], [limits], [retention], [snapshot] and [hooks].
    for table in ["disks", "timing", "limits", "retention", "snapshot", "hooks"] {
        keys.remove(table);
    }
    assert_documented(&keys, 40, "configuration.md");
}
