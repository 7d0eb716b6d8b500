//! Layers inside a crate: modules use what is below them, never what is beside or above.

use std::collections::BTreeSet;

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

#[test]
fn the_controllers_modules_use_only_what_is_below_them() {
    check("controller/src", &CONTROLLER);
}

#[test]
fn the_agents_modules_use_only_what_is_below_them() {
    check("agent/src", &AGENT);
}

fn check(folder: &str, layers: &[&[&str]]) {
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let mut seen = BTreeSet::new();
    for source in shipped(folder) {
        let inside = source.path.strip_prefix(folder).unwrap().trim_start_matches('/');
        let module = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let Some(layer) = layer_of(&module) else {
            panic!("{}: the module {module} has no layer: give it one in {}", source.path, file!());
        };
        for used in words_after(&source.text, "crate::").filter(|used| *used != module) {
            // What is not a module is re-exported by the root, which only a library has.
            let below = layer_of(used)
                .unwrap_or_else(|| panic!("{}: crate::{used} is no module with a layer", source.path));
            assert!(
                below < layer || module == "main",
                "{} uses crate::{used}, which is not below {module}: move what both need down, or pass it in",
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
