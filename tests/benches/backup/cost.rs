use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one operation took.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// User and system time of all processes that worked on it.
    pub(crate) cpu: Duration,
    /// Most memory that was resident in each of these processes, in KiB.
    pub(crate) peaks_kib: Vec<u64>,
}

/// Runs a command to its end; it must succeed.
pub(crate) fn of(command: Command) -> Cost {
    let report = tempfile::NamedTempFile::new().unwrap();
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["--format", "%U %S %M", "--output"]).arg(report.path()).arg(command.get_program());
    timed.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => timed.env(key, value),
            None => timed.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        timed.current_dir(folder);
    }
    timed.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let output = timed.spawn().unwrap().wait_with_output().unwrap();
    let wall = start.elapsed();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(report.path()).unwrap();
    let fields: Vec<f64> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Cost { wall, cpu: Duration::from_secs_f64(fields[0] + fields[1]), peaks_kib: vec![fields[2] as u64] }
}

/// A process that runs before, during and after what is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pid: u32,
    cpu: Duration,
}

impl Watched {
    /// From now on.
    pub(crate) fn start(pid: u32) -> Self {
        // Resets the peak of the resident set.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Self { pid, cpu: cpu_of(pid) }
    }

    /// CPU time and peak of the resident set (KiB) since the start.
    pub(crate) fn end(self) -> (Duration, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak = peak.trim().trim_end_matches(" kB").parse().unwrap();
        (cpu_of(self.pid).saturating_sub(self.cpu), peak)
    }
}

fn cpu_of(pid: u32) -> Duration {
    // Linux counts in hundredths of a second there, on every architecture.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), the third being the first after the name.
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    TICK * ticks
}
