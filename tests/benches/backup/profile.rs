use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Does `work` while `perf` records what all processors do, into `OPERATION.perf`; without a folder, just that.
pub(crate) fn profiled<T>(folder: Option<&Path>, operation: &str, work: impl FnOnce() -> T) -> T {
    let Some(folder) = folder else { return work() };
    let mut perf = record(&folder.join(format!("{operation}.perf")));
    let done = work();
    let stopped = Command::new("kill").args(["-INT", &perf.id().to_string()]).status().unwrap();
    assert!(stopped.success(), "perf ended early");
    perf.wait().unwrap();
    done
}

fn record(to: &Path) -> Child {
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "-a", "-g", "-e", "cpu-clock", "-F", "997", "-o"]).arg(to);
    let perf = perf.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("perf is installed");
    // It says nothing when it has begun.
    std::thread::sleep(Duration::from_millis(300));
    perf
}
