use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::{program, wait};

/// No single command takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// The operator's client with its settings in the environment.
#[derive(Clone, Debug)]
pub struct Cli {
    pub address: String,
    pub ca_file: PathBuf,
    pub api_key_file: PathBuf,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Answer {
    pub command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command that still runs.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    output: TempDir,
}

impl Cli {
    /// Runs a command to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Answer {
        self.spawn(args).finish()
    }

    /// Starts a command.
    #[must_use]
    pub fn spawn(&self, args: &[&str]) -> Running {
        let mut command = program::command("holdfast");
        command.args(args).envs(self.environment()).env_remove("XDG_CONFIG_HOME");
        run_in_background(&format!("holdfast {}", args.join(" ")), command)
    }

    /// What tells the client whom to ask, and as whom; and no settings of the user's.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 4] {
        [
            ("HOLDFAST_ADDRESS", (&self.address).into()),
            ("HOLDFAST_CA_FILE", (&self.ca_file).into()),
            ("HOLDFAST_API_KEY_FILE", (&self.api_key_file).into()),
            ("HOME", "/nonexistent".into()),
        ]
    }

    /// Runs a command that must succeed and gives what it printed as JSON.
    #[must_use]
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        self.run(&args).succeeds().json()
    }
}

/// Runs any of our programs to its end.
#[must_use]
pub fn finish(name: &str, command: std::process::Command) -> Answer {
    run_in_background(name, command).finish()
}

fn run_in_background(name: &str, mut command: std::process::Command) -> Running {
    let output = tempfile::tempdir().unwrap();
    let file = |name: &str| File::create(output.path().join(name)).unwrap();
    command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
    Running { command: name.to_owned(), child: command.spawn().unwrap(), output }
}

impl Running {
    /// Waits for its end.
    #[must_use]
    pub fn finish(mut self) -> Answer {
        let child = &mut self.child;
        let status = wait::until(&self.command, PATIENCE, || child.try_wait().unwrap());
        let read = |name: &str| read_lossy(&self.output.path().join(name));
        Answer {
            command: self.command.clone(),
            code: status.code().unwrap_or(-1),
            stdout: read("out"),
            stderr: read("err"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

impl Answer {
    #[must_use]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It failed with this exit code: one sentence with this error code, a next step, and nothing on stdout.
    #[must_use]
    pub fn fails(self, exit: i32, code: &str) -> Self {
        assert_eq!(self.code, exit, "{self:?}");
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        assert!(errors[0].ends_with(&format!("({code})")), "expected ({code}): {self:?}");
        assert!(
            self.stderr.lines().any(|line| line.trim_start().starts_with("next: ")),
            "no next step: {self:?}"
        );
        assert_eq!(self.stdout, "", "{self:?}");
        self
    }

    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
