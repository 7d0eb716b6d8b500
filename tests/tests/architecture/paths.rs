//! Paths that `ARCHITECTURE.md` names.

use crate::source::{paths, root};

/// The folder is named in full, and where to start reading from there.
#[test]
fn the_code_map_leads_to_files() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = map.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 10, "the code map is read wrongly: {rows:?}");
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let [folder] = quoted(cells[1])[..] else { panic!("a row begins with its folder: {row}") };
        let start = quoted(cells[3]);
        assert!(!start.is_empty(), "say where to start reading: {row}");
        for path in start.iter().map(|path| format!("{folder}{path}")) {
            assert!(root().join(&path).is_file(), "there is no {path}: mend the code map");
        }
    }
}

/// Elsewhere a path begins in the crate that is spoken of, or below.
#[test]
fn every_path_of_the_architecture_is_there() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    // A drawing has no backticks of its own.
    let prose: String = text.split("```").step_by(2).collect();
    let there: Vec<String> = paths().into_iter().map(|path| format!("/{path}")).collect();
    let named: Vec<&str> = quoted(&prose).into_iter().filter(|word| is_path(word)).collect();
    assert!(named.len() > 80, "the page is read wrongly: {named:?}");
    for path in named {
        let end = format!("/{}", path.trim_end_matches('/'));
        assert!(
            there.iter().any(|there| there.ends_with(&end)),
            "ARCHITECTURE.md speaks of {path}, and nothing in the tree ends so: mend the page"
        );
    }
}

fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What has a placeholder is an object of the vault.
fn is_path(word: &str) -> bool {
    let is_file = [".rs", ".sql", ".proto", ".md", ".toml"].iter().any(|ending| word.ends_with(ending));
    (is_file || word.contains('/')) && !word.contains(['<', ' '])
}
