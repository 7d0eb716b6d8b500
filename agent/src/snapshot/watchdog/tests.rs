pub(super) const IS_WATCHDOG: &str = "HOLDFAST_TEST_IS_WATCHDOG";
pub(super) const AS_WATCHDOG: [&str; 3] =
    ["--exact", "snapshot::watchdog::tests::becomes_a_watchdog", "--nocapture"];

/// The program of the tests is started again in place of the agent's, and comes here.
#[test]
fn becomes_a_watchdog() {
    if std::env::var_os(IS_WATCHDOG).is_some() {
        let ended = super::serve();
        std::process::exit(i32::from(ended != std::process::ExitCode::SUCCESS));
    }
}
