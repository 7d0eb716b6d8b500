/// A place where the fault tests end the process; nothing in a build without the feature `failpoints`.
pub(crate) fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
    let _ = name;
}
