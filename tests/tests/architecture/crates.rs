//! What crates may be built on, directly and through others.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::source::root;

/// A crate, what it may use of ours, and what must not be below it.
struct Rule {
    name: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const FORMAT: &str = "holdfast-vault-format";
const ENGINE: &str = "holdfast-vault-engine";
const GATEWAY: &str = "holdfast-gateway";
const PROTO: &str = "holdfast-proto";
const RESTORE: &str = "holdfast-restore";

const RULES: [Rule; 9] = [
    Rule { name: PROTO, ours: &[], never: &["sqlx", "object_store"] },
    Rule { name: FORMAT, ours: &[], never: &["tokio", "tonic", "prost", "sqlx", "object_store"] },
    Rule { name: RESTORE, ours: &[FORMAT], never: &["tokio", "tonic", "prost", "sqlx", "object_store"] },
    Rule { name: ENGINE, ours: &[FORMAT], never: &["tonic", "prost", "sqlx"] },
    Rule { name: "holdfast-vault", ours: &[FORMAT, ENGINE, RESTORE], never: &["tonic", "prost", "sqlx"] },
    Rule { name: GATEWAY, ours: &[PROTO, FORMAT, ENGINE], never: &["sqlx"] },
    Rule { name: "holdfast-controller", ours: &[PROTO, FORMAT, ENGINE, GATEWAY], never: &[] },
    // They hold no storage credential and keep no database: they could not even use one.
    Rule { name: "holdfast-agent", ours: &[PROTO, FORMAT], never: &["sqlx", "object_store"] },
    Rule { name: "holdfast-cli", ours: &[PROTO, FORMAT, RESTORE], never: &["sqlx", "object_store"] },
];

#[test]
fn dependencies_between_crates_point_one_way() {
    let below = dependencies();
    let ours: BTreeSet<&str> =
        below.keys().map(String::as_str).filter(|name| name.starts_with("holdfast")).collect();
    let ruled: BTreeSet<&str> =
        RULES.iter().map(|rule| rule.name).chain(["holdfast-fuzz", "holdfast-tests"]).collect();
    assert_eq!(ours, ruled, "each crate of the workspace needs a rule here, and each rule a crate");
    for Rule { name, ours, never } in RULES {
        for found in closure(&below, name) {
            assert!(
                !found.starts_with("holdfast") || ours.contains(&found.as_str()),
                "{name} depends on {found}: move what it needs to where both may use it, or turn the call around"
            );
            assert!(
                !never.contains(&found.as_str()),
                "{name} depends on {found}, maybe through others (`cargo tree -p {name} -i {found} -e normal`): \
                 do that part in a layer above"
            );
        }
    }
}

/// The names of all that a crate is built on.
fn closure(below: &BTreeMap<String, BTreeSet<String>>, name: &str) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![name.to_owned()]);
    while let Some(next) = open.pop() {
        for found in &below[&next] {
            if seen.insert(found.clone()) {
                open.push(found.clone());
            }
        }
    }
    seen
}

fn host() -> String {
    let output = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap();
    assert!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Direct dependencies by name, neither for building nor for testing.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        // What other platforms need was never fetched.
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let mut below: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let of = below.entry(names[&text(&node["id"])].clone()).or_default();
        for dependency in node["deps"].as_array().unwrap() {
            let is_normal = |kind: &Value| kind["kind"].is_null();
            if dependency["dep_kinds"].as_array().unwrap().iter().any(is_normal) {
                of.insert(names[&text(&dependency["pkg"])].clone());
            }
        }
    }
    below
}
