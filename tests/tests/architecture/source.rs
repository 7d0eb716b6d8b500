//! The repository's files, as text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A file, its path from the repository's root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files with this ending below a folder, by path.
pub(crate) fn files(folder: &str, ending: &str) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    walk(&root.join(folder), &mut |path| {
        if path.extension().is_some_and(|extension| extension == ending) {
            let text = std::fs::read_to_string(path).unwrap();
            found.push(Source { path: path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), text });
        }
    });
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "there is no .{ending} below {folder}: mend this test");
    found
}

/// SQL with each statement in one line, without comments of whole lines.
pub(crate) fn statements(folder: &str) -> Vec<Source> {
    let mut sources = files(folder, "sql");
    for source in &mut sources {
        let is_code = |line: &&str| !line.trim_start().starts_with("--");
        source.text = in_one_line(&source.text.lines().filter(is_code).collect::<Vec<_>>().join("\n"));
    }
    sources
}

/// With one space wherever there are some, or a line ends.
pub(crate) fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All files and folders.
pub(crate) fn paths() -> Vec<String> {
    let root = root();
    let mut found = BTreeSet::new();
    walk(&root, &mut |path| {
        let path = path.strip_prefix(&root).unwrap();
        found.extend(path.ancestors().filter_map(|path| path.to_str()).map(str::to_owned));
    });
    found.into_iter().filter(|path| !path.is_empty()).collect()
}

/// Rust as it is shipped: without tests, and without comments of whole lines.
pub(crate) fn shipped(folder: &str) -> Vec<Source> {
    let mut sources = files(folder, "rs");
    sources.retain(|source| !is_test(&source.path));
    for source in &mut sources {
        let text = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        source.text = text.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    }
    sources
}

/// The words that follow `prefix` wherever it stands.
pub(crate) fn words_after<'t>(text: &'t str, prefix: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(prefix).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.split('/').any(|part| matches!(part, "tests" | "testing" | "testing.rs"))
}

fn walk(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type().unwrap().is_dir() { walk(&entry.path(), each) } else { each(&entry.path()) }
    }
}
