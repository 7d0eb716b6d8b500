//! Layers inside a crate: modules use what is below them, never what is beside or above.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{shipped, words_after};

/// From the bottom up.
const CONTROLLER: [&[&str]; 8] = [
    &["config", "domain", "listen"],
    &["pki", "store", "telemetry"],
    &["identity", "init", "live", "rpc_error"],
    &["api_key", "app"],
    &["authority", "collection", "session"],
    &["api", "tasks"],
    &["serve"],
    &["main"],
];

const AGENT: [&[&str]; 11] = [
    &["address", "attempt", "backoff", "blocking", "crash_point", "duration", "durable", "error", "kernel"],
    &["config", "spool", "state_dir"],
    &["disk", "identity", "outbox"],
    &["context", "snapshot", "tls"],
    &["dial", "hooks", "renew"],
    &["enrol", "transfer"],
    &["step"],
    &["runner"],
    &["session"],
    &["agent"],
    &["cli", "main"],
];

const ENGINE: [&[&str]; 13] = [
    &["buffer", "condemned", "crash_point", "layer", "name", "problem", "retention", "settled"],
    &["segment_id", "standing"],
    &["clock", "error", "samples"],
    &["blocking", "directory", "key_file", "writer"],
    &["store"],
    &["object"],
    &["header", "probe"],
    &["keys"],
    &["vault"],
    &["point", "record", "reserve", "segment", "space", "staging"],
    &["backup", "delta", "disk", "event", "learn"],
    &["became", "begin", "enforce", "received", "verify"],
    &["collect", "commit", "conclude", "map"],
];

#[test]
fn the_controllers_modules_use_only_what_is_below_them() {
    check("controller/src", &CONTROLLER);
}

#[test]
fn the_agents_modules_use_only_what_is_below_them() {
    check("agent/src", &AGENT);
}

#[test]
fn the_engines_modules_use_only_what_is_below_them() {
    check("vault/engine/src", &ENGINE);
}

fn check(folder: &str, layers: &[&[&str]]) {
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let sources = shipped(folder);
    // The root of a library is above everything: it has no layer, and what it exports is used in its module's name.
    let is_root = |path: &str| path == format!("{folder}/lib.rs");
    let exports = sources.iter().find(|source| is_root(&source.path)).map(|root| exported(&root.text));
    let exports = exports.unwrap_or_default();
    let mut seen = BTreeSet::new();
    for source in sources.iter().filter(|source| !is_root(&source.path)) {
        let inside = source.path.strip_prefix(folder).unwrap().trim_start_matches('/');
        let module = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let Some(layer) = layer_of(&module) else {
            panic!("{}: the module {module} has no layer: give it one in {}", source.path, file!());
        };
        for used in used(&source.text) {
            let of = exports.get(used).copied().unwrap_or(used);
            if of == module {
                continue;
            }
            let below = layer_of(of)
                .unwrap_or_else(|| panic!("{}: crate::{used} is of no module with a layer", source.path));
            assert!(
                below < layer || module == "main",
                "{} uses crate::{used} of {of}, which is not below {module}: move what both need down, or pass it in",
                source.path
            );
        }
        seen.insert(module);
    }
    for module in layers.iter().flat_map(|layer| layer.iter()) {
        assert!(
            seen.contains(*module),
            "{folder} has no module {module} any more: take it out of {}",
            file!()
        );
    }
}

/// What follows `crate::`: a name, or those of a group.
fn used(text: &str) -> Vec<&str> {
    let mut used: Vec<&str> = words_after(text, "crate::").filter(|word| !word.is_empty()).collect();
    for group in text.split("crate::{").skip(1) {
        let (names, _) = group.split_once('}').unwrap();
        assert!(!names.contains('{'), "a group in a group is not read here: crate::{{{names}");
        used.extend(
            names.split(',').filter_map(|name| name.trim().split("::").next()).filter(|n| !n.is_empty()),
        );
    }
    used
}

/// What a library's root exports, also to its own modules, and of which module each is.
fn exported(root: &str) -> BTreeMap<&str, &str> {
    let mut exported = BTreeMap::new();
    for statement in root.split(';').map(str::trim) {
        let Some((_, path)) = statement.split_once("use ").filter(|(before, _)| before.starts_with("pub"))
        else {
            continue;
        };
        let (module, names) = path.split_once("::").unwrap();
        let names = names.rsplit_once("::").map_or(names, |(_, last)| last);
        for name in names.trim_matches(['{', '}']).split(',').filter(|name| !name.trim().is_empty()) {
            exported.insert(name.trim(), module);
        }
    }
    exported
}
