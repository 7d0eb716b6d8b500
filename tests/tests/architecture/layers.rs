//! Layers inside a crate: modules use what is below them, never what is beside or above.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, shipped, words_after};

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

/// What is inside two of them.
const AGENT_TRANSFER: [&[&str]; 7] = [
    &["answer", "disk_place", "disk_wait", "error", "gather", "map_run", "meter", "reader"],
    &["compress", "map_file"],
    &["upload", "base"],
    &["map_store", "remote_map"],
    &["scan"],
    &["disk_scan"],
    &["pass"],
];

const AGENT_SNAPSHOT: [&[&str]; 4] = [
    &["lease", "mounts", "reflink"],
    &["device", "journal", "watchdog"],
    &["error", "offline", "undertaking"],
    &["recover", "registry", "take"],
];

/// `lib` is what the root defines: the gateway, for which nearly all of them have methods. Those are called as if they had no module, and
/// the order here is kept by them as well; only that of what is named is looked at.
const GATEWAY: [&[&str]; 7] = [
    &["error", "metrics", "retry"],
    &["authority", "transfers", "wire"],
    &["lib"],
    &["commit", "damage", "enforce", "learn", "send"],
    &["open", "point", "restore", "verify"],
    &["collect", "resolve", "scrub", "transfer_api"],
    &["rebuild", "run"],
];

const CLI: [&[&str]; 7] = [
    &["args", "error", "view"],
    &["interrupt", "output", "settings"],
    &["client", "progress"],
    &["check", "follow", "machine", "point", "policy", "restore", "status", "token", "vault"],
    &["job"],
    &["backup"],
    &["main"],
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
    check_inside("agent/src", "transfer", &AGENT_TRANSFER);
    check_inside("agent/src", "snapshot", &AGENT_SNAPSHOT);
}

#[test]
fn the_gateways_modules_use_only_what_is_below_them() {
    check("controller/gateway/src", &GATEWAY);
}

#[test]
fn the_clients_modules_use_only_what_is_below_them() {
    check("cli/src", &CLI);
}

#[test]
fn the_engines_modules_use_only_what_is_below_them() {
    check("vault/engine/src", &ENGINE);
}

fn check(folder: &str, layers: &[&[&str]]) {
    let sources = shipped(folder);
    // The root of a library is above everything, and what it exports is used in its module's name. What it defines itself has the layer
    // of `lib`.
    let is_root = |path: &str| path == format!("{folder}/lib.rs");
    let root = sources.iter().find(|source| is_root(&source.path));
    let mut exports = root.map(|root| exported(&root.text)).unwrap_or_default();
    if let Some(root) = root.filter(|_| layer_of(layers, "lib").is_some()) {
        for defines in ["\npub struct ", "\npub(crate) fn ", "\npub(crate) async fn "] {
            exports.extend(words_after(&root.text, defines).map(|name| (name, "lib")));
        }
    }
    let mut seen: BTreeSet<String> = root.map(|_| "lib".to_owned()).into_iter().collect();
    for source in sources.iter().filter(|source| !is_root(&source.path)) {
        let module = module_of(&source.path, folder);
        for used in used(&source.text, "crate::") {
            let of = exports.get(used).copied().unwrap_or(used);
            assert!(
                layer_of(layers, of).is_some(),
                "{}: crate::{used} is of no module with a layer",
                source.path
            );
            assert_below(source, module, of, layers);
        }
        seen.insert(module.to_owned());
    }
    assert_all_seen(folder, layers, &seen);
}

/// The same among the modules of a module, which name each other by `super` or in full. What the module itself has is not looked at.
fn check_inside(crate_folder: &str, parent: &str, layers: &[&[&str]]) {
    let folder = format!("{crate_folder}/{parent}");
    let sources = shipped(&folder);
    let modules: BTreeSet<String> =
        sources.iter().map(|source| module_of(&source.path, &folder).to_owned()).collect();
    for source in &sources {
        let up = "super::".repeat(source.path[folder.len() + 1..].split('/').count());
        // Longer chains than this one end in what is above `parent`.
        let text =
            source.text.replace(&format!("super::{up}"), "").replace(&up, &format!("crate::{parent}::"));
        for used in used(&text, &format!("crate::{parent}::")) {
            if modules.contains(used) {
                assert_below(source, module_of(&source.path, &folder), used, layers);
            }
        }
    }
    assert_all_seen(&folder, layers, &modules);
}

fn assert_below(source: &Source, module: &str, used: &str, layers: &[&[&str]]) {
    let Some(layer) = layer_of(layers, module) else {
        panic!("{}: the module {module} has no layer: give it one in {}", source.path, file!());
    };
    assert!(
        used == module || module == "main" || layer_of(layers, used) < Some(layer),
        "{} uses {used}, which is not below {module}: move what both need down, or pass it in",
        source.path
    );
}

fn assert_all_seen(folder: &str, layers: &[&[&str]], seen: &BTreeSet<String>) {
    for module in layers.iter().flat_map(|layer| layer.iter()) {
        assert!(
            seen.contains(*module),
            "{folder} has no module {module} any more: take it out of {}",
            file!()
        );
    }
}

fn layer_of(layers: &[&[&str]], module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&module))
}

/// The module right below this folder that a file is of.
fn module_of<'t>(path: &'t str, folder: &str) -> &'t str {
    let inside = path.strip_prefix(folder).unwrap().trim_start_matches('/');
    inside.split('/').next().unwrap().trim_end_matches(".rs")
}

/// What follows `path` wherever it stands: a name, or those of a group.
fn used<'t>(text: &'t str, path: &'t str) -> Vec<&'t str> {
    let mut used: Vec<&str> = words_after(text, path).filter(|word| !word.is_empty()).collect();
    for group in text.split(path).filter_map(|rest| rest.strip_prefix('{')) {
        let (names, _) = group.split_once('}').unwrap();
        assert!(!names.contains('{'), "a group in a group is not read here: {path}{{{names}");
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
