//! Named places where the fault tests kill the process. Without the feature `failpoints` nothing is left of them.

/// Ends the process at once if the environment's `FAILPOINTS` asks for it at `name`.
pub(crate) fn crash_point(name: &str) {
    let _ = name;
    fail::fail_point!(name, |_| std::process::abort());
}
