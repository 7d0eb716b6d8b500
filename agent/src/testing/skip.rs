use std::fmt::Display;
use std::process::Command;

/// Says why a test, or a part of one, proves nothing here. With `CI` set it fails: there everything is to be there.
pub(crate) fn skip(why: impl Display) {
    assert!(std::env::var_os("CI").is_none(), "with CI set nothing may be skipped: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Runs a tool and gives what it says; where it is missing or fails, the test is skipped.
pub(crate) fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    match Command::new(name).args(arguments).env("PATH", path).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        other => {
            skip(format_args!("`{name} {}` does not work here: {other:?}", arguments.join(" ")));
            None
        }
    }
}

/// Whether the places where a program can be stopped are compiled in, as `tests/run` has them.
pub(crate) fn has_failpoints_or_skips() -> bool {
    if !cfg!(feature = "failpoints") {
        skip("needs the feature failpoints");
    }
    cfg!(feature = "failpoints")
}
