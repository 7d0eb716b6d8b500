//! Tests that prove nothing where something is missing.

use std::fmt::Display;

/// Says why a test proves nothing here. With `CI` set it fails: there everything is to be there.
pub fn skip(why: impl Display) {
    assert!(std::env::var_os("CI").is_none(), "with CI set nothing may be skipped: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Whether this process may mount and unshare. A test that needs it and may not is skipped.
#[must_use]
pub fn is_root_or_skips(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(format_args!("{test} needs root"));
    }
    root
}
