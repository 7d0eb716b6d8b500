use std::path::PathBuf;
use std::process::Command;

/// A command for one of our programs: the one next to this test, with none of the caller's settings.
///
/// # Panics
/// If it is not built.
#[must_use]
pub fn command(name: &str) -> Command {
    let path = folder().join(name);
    assert!(path.try_exists().unwrap(), "{} is not built: use tests/run", path.display());
    let mut command = Command::new(path);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("HOLDFAST_") || variable == "FAILPOINTS" {
            command.env_remove(variable);
        }
    }
    command
}

/// The repository's folder.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder that `HOLDFAST_TEST_PROGRAMS` names, or `target/debug`: tests run from `target/debug/deps`.
fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("HOLDFAST_TEST_PROGRAMS") {
        return folder.into();
    }
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().to_owned()
}
