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

/// What is in backticks in the first column of tables.
fn first_column(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| "))
        .flat_map(|row| row.split('|').next().unwrap_or_default().split(','))
        .filter_map(|cell| Some(cell.trim().strip_prefix('`')?.split('`').next()?.to_owned()))
}

fn assert_documented(found: &BTreeSet<String>, least: usize, document: &str) {
    assert!(found.len() >= least, "the sources are read wrongly: {found:?}");
    let text = fs::read_to_string(root().join("docs").join(document)).unwrap();
    let documented: BTreeSet<String> = first_column(&text).collect();
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

/// Its file, and its name.
type Structure = (&'static str, &'static str);

/// A table of docs/configuration.md by its chapter and the beginning of the line before it, and the structures that are read from it.
const CONFIGURATION: [(&str, &str, &[Structure]); 10] = [
    ("`controller.toml`", "In the controller's", &[("controller/src/config/file.rs", "File")]),
    ("`controller.toml`", "`[vault]`", &[("controller/src/config/vault.rs", "S3Table")]),
    ("`controller.toml`", "`[timing]`", &[("controller/src/config/timing.rs", "Timing")]),
    ("`controller.toml`", "`[limits]`", &[("controller/src/config/limits.rs", "Limits")]),
    ("`controller.toml`", "`[retention]`", &[("controller/src/config/retention.rs", "RetentionConfig")]),
    ("`agent.toml`", "`/etc/holdfast/agent.toml`", &[("agent/src/config.rs", "Config")]),
    ("`agent.toml`", "`[[disk]]`", &[("agent/src/config.rs", "ConfiguredDisk")]),
    (
        "`agent.toml`",
        "`[snapshot]` and `[hooks]`",
        &[("agent/src/config/snapshot.rs", "SnapshotConfig"), ("agent/src/config/hooks.rs", "HooksConfig")],
    ),
    ("`agent.toml`", "`[timing]`", &[("agent/src/config.rs", "Timing")]),
    ("The operator's `config.toml`", "`~/.config", &[("cli/src/settings.rs", "File")]),
];

#[test]
fn every_configuration_key_is_in_its_table() {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut found = 0;
    for (chapter, before, structures) in CONFIGURATION {
        let mut keys: BTreeSet<String> =
            structures.iter().flat_map(|(file, structure)| fields(file, structure)).collect();
        // In the file they are the tables [[disk]], [timing], [limits], [retention], [snapshot] and [hooks].
        for table in ["disks", "timing", "limits", "retention", "snapshot", "hooks"] {
            keys.remove(table);
        }
        let (_, chapter_text) = text.split_once(&format!("\n## {chapter}\n")).unwrap();
        let chapter_text = chapter_text.split("\n## ").next().unwrap();
        let (_, table) = chapter_text.split_once(&format!("\n{before}")).unwrap();
        let table = table.split("\n\n").nth(1).unwrap();
        let documented: BTreeSet<String> = first_column(table).collect();
        assert_eq!(keys, documented, "{chapter}, {before}; left: the sources; right: docs/configuration.md");
        found += keys.len();
    }
    assert!(found > 60, "the sources are read wrongly: {found}");
}

fn fields(file: &str, structure: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let body = text.split(&format!("struct {structure} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    let lines = body.lines().map(str::trim).filter(|line| !line.starts_with(['/', '#']));
    lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, _)| name.rsplit(' ').next().unwrap().to_owned())
        .collect()
}
