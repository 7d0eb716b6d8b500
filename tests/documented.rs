//! The command lines of the documentation. The unit tests of each program include this file, and see whether the program takes them.

use std::fs;
use std::path::Path;

/// Panics unless the documentation calls `program` at least so many times, and `parse` takes each call.
pub(crate) fn assert_calls_parse<T>(
    program: &str,
    least: usize,
    parse: impl Fn(Vec<String>) -> Result<T, clap::Error>,
) {
    let calls = calls(program);
    assert!(calls.len() >= least, "the documentation is read wrongly: {calls:?}");
    for (paper, words) in calls {
        let call = words.join(" ");
        if let Err(error) = parse(words) {
            panic!("{paper} says `{call}`, which {program} refuses: {error}");
        }
    }
}

/// Those in fenced blocks, and where they stand.
fn calls(program: &str) -> Vec<(String, Vec<String>)> {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = above.find(|folder| folder.join("ARCHITECTURE.md").is_file()).unwrap();
    let mut papers = vec![root.join("README.md")];
    papers.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    papers.retain(|paper| paper.extension().is_some_and(|extension| extension == "md"));
    let mut found = Vec::new();
    for paper in papers {
        let text = fs::read_to_string(&paper).unwrap().replace("\\\n", " ");
        for line in text.split("```").skip(1).step_by(2).flat_map(str::lines) {
            for command in words(line).split(|word| ["|", "&&", ";"].contains(&word.as_str())) {
                let Some(at) = command.iter().position(|word| word == program) else { continue };
                // Else it is an argument, or a word of what a program says; after `--` another program runs it.
                if at == 0 || command[at - 1] == "--" {
                    let call = command[at..].iter().take_while(|word| !word.starts_with(['<', '>']));
                    found.push((paper.display().to_string(), call.cloned().collect()));
                }
            }
        }
    }
    found
}

/// As a shell splits a line, without the prompt and the comment. The brackets around what may be left out are left out.
fn words(line: &str) -> Vec<String> {
    let line = line.trim();
    let line = ["$ ", "# "].iter().find_map(|prompt| line.strip_prefix(prompt)).unwrap_or(line);
    let (mut words, mut quote) = (vec![String::new()], None);
    for character in line.chars() {
        let is_new = words.last().is_none_or(String::is_empty);
        match (quote, character) {
            (None, '#') if is_new => break,
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, '[' | ']') => {}
            (None, ' ') if is_new => {}
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().unwrap().push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
