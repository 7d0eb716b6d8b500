//! Names that stand in several places and must be the same in all of them.

use std::collections::BTreeSet;

use crate::source::{Source, files, root, shipped, words_after};

/// Whose crash points are called how.
const CRASH_POINTS: [(&str, &str); 4] = [
    ("agent/src", "agent"),
    ("controller/src", "controller"),
    ("controller/gateway/src", "gateway"),
    ("vault/engine/src", "engine"),
];

#[test]
fn every_sql_file_is_used_and_every_used_one_is_there() {
    let there: BTreeSet<String> = files("controller/src/store/sql", "sql")
        .into_iter()
        .map(|source| source.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let mut used = BTreeSet::new();
    for source in shipped("controller/src/store") {
        used.extend(words_after(&source.text, "include_str!(\"sql/").map(|name| format!("{name}.sql")));
    }
    assert_eq!(there, used, "left: the files of controller/src/store/sql; right: what its modules include");
}

#[test]
fn crash_points_are_named_after_their_crate_and_every_one_is_tested() {
    let mut defined = BTreeSet::new();
    for (folder, prefix) in CRASH_POINTS {
        for source in shipped(folder) {
            for name in quoted_after(&source.text, "crash_point(\"") {
                assert!(
                    name.starts_with(&format!("{prefix}::")),
                    "{}: {name} must begin with {prefix}::",
                    source.path
                );
                defined.insert(name);
            }
        }
    }
    let (mut named, mut tested) = (BTreeSet::new(), BTreeSet::new());
    for source in files("tests/tests", "rs").into_iter().chain(files("agent", "rs")) {
        if !source.path.contains("/tests") {
            continue;
        }
        for (_, prefix) in CRASH_POINTS {
            for (before, rest) in around(&source.text, &format!("\"{prefix}::")) {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
                let name = format!("{prefix}::{}", &rest[..end]);
                if end > 0 && dies(&source, before, rest[end..].split('"').next().unwrap()) {
                    tested.insert(name.clone());
                }
                named.extend((end > 0).then_some(name));
            }
        }
    }
    let untested: Vec<_> = defined.difference(&tested).collect();
    assert!(
        untested.is_empty(),
        "no test dies at {untested:?}: add it to tests/tests/faults.rs, or remove it; sleeping there is not dying"
    );
    let unknown: Vec<_> = named.difference(&defined).collect();
    assert!(
        unknown.is_empty(),
        "tests name {unknown:?}, which does not exist: they would pass without dying"
    );
}

/// Whether a test dies where it names a crash point: a system test that waits for that and arms nothing else there, or one that is
/// called back, to be killed. `action` is what follows the name.
fn dies(source: &Source, before: &str, action: &str) -> bool {
    let waits = ["wait_for_crash(", "dies_enrolling("].iter().any(|wait| source.text.contains(wait));
    let ends = action.is_empty() || action.ends_with("return") || action.ends_with("off");
    let is_called_back = before.ends_with("cfg_callback(");
    is_called_back || source.path.starts_with("tests/tests/") && waits && ends
}

/// What is before and after `word`, wherever it stands.
fn around<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = (&'t str, &'t str)> {
    text.match_indices(word).map(|(at, word)| (&text[..at], &text[at + word.len()..]))
}

/// Whoever knows the noun knows the path.
#[test]
fn a_noun_has_one_name_in_every_layer() {
    for source in files("proto/holdfast/v1", "proto") {
        let noun = source.path.rsplit('/').next().unwrap().trim_end_matches(".proto").to_owned();
        if !source.text.contains("\nservice ") {
            continue;
        }
        let layers: &[&str] = match noun.as_str() {
            "agent" => {
                &["controller/src/api/agent.rs", "controller/src/store/agent.rs", "agent/src/session.rs"]
            }
            "transfer" => &[
                "controller/gateway/src/transfer_api.rs",
                "controller/src/store/transfer.rs",
                "agent/src/transfer.rs",
            ],
            "restore" => &["controller/gateway/src/restore.rs", "cli/src/restore.rs"],
            _ => &["controller/src/api/{}.rs", "controller/src/store/{}.rs", "cli/src/{}.rs"],
        };
        for path in layers.iter().map(|path| path.replace("{}", &noun)) {
            assert!(
                root().join(&path).try_exists().unwrap(),
                "{path} is missing: the noun {noun} of {} has this name in every layer",
                source.path
            );
        }
        let service = format!("service {}{}Service {{", noun[..1].to_uppercase(), &noun[1..]);
        assert!(source.text.contains(&service), "{} must have `{service}`", source.path);
    }
}

/// Two branches that each add the next migration meet here, not at an operator's upgrade.
#[test]
fn migrations_are_numbered_without_gaps() {
    let numbers: Vec<usize> = files("migrations", "sql")
        .iter()
        .map(|source| source.path.rsplit('/').next().unwrap()[..4].parse().unwrap())
        .collect();
    let expected: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, expected, "give each migration the next number");
}

#[test]
fn every_invariant_names_what_enforces_it() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut sources: String = files(".", "rs").into_iter().map(|source| source.text).collect();
    sources.push_str(&std::fs::read_to_string(root().join("clippy.toml")).unwrap());
    sources.push_str(&std::fs::read_to_string(root().join("Cargo.toml")).unwrap());
    let invariants: Vec<&str> = text.split("**Architecture invariant:**").skip(1).collect();
    assert!(invariants.len() > 10, "ARCHITECTURE.md lists the invariants");
    for invariant in invariants {
        let invariant = invariant.split("\n- ").next().unwrap();
        let Some((what, by)) = invariant.split_once("*Enforced by*") else {
            panic!("say what enforces it, or do not call it an invariant: {invariant}");
        };
        let names: Vec<&str> = by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "name the test, type or lint in backticks: {what}");
        for name in names {
            // A type, what takes it, a lint.
            let known = [
                format!("struct {name} "),
                format!("pub(super) async fn {name}("),
                format!("\"{name}\""),
                format!("{name} = "),
            ];
            assert!(
                known.iter().any(|known| sources.contains(known)) || is_run(&sources, name),
                "{name} enforces an invariant, and there is no such test, type or lint: {what}"
            );
        }
    }
}

#[test]
fn every_dangerous_point_names_the_tests_that_hold_it() {
    let text = std::fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let sources: String = files(".", "rs").into_iter().map(|source| source.text).collect();
    let table = text.split("## Dangerous points").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 20, "docs/testing.md lists the dangerous points");
    for row in rows {
        let tests: Vec<&str> = row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "name the tests in backticks: {row}");
        for test in tests {
            assert!(is_run(&sources, test), "there is no test {test}, or it is switched off: {row}");
        }
    }
}

/// Whether a function is a test that nobody switched off.
fn is_run(sources: &str, name: &str) -> bool {
    let (found, needle) = (sources.find(&format!("fn {name}(")), "test");
    let attributes = |at: usize| {
        let before = sources[..at].trim_end_matches("async ").trim_end();
        before.rsplit("\n\n").next().unwrap_or("").to_owned()
    };
    found.map(attributes).is_some_and(|above| {
        above.lines().any(|line| line.trim().starts_with("#[") && line.contains(needle))
            && !above.contains("#[ignore")
    })
}

fn quoted_after(text: &str, prefix: &str) -> Vec<String> {
    text.split(prefix).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}
