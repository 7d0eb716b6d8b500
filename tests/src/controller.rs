use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::cli::{self, Answer};
use crate::process::Process;
use crate::{program, wait};

const START_PATIENCE: Duration = Duration::from_secs(60);

/// Seconds where a real fleet has minutes. `agent_lost_after` leaves room for a busy machine.
pub const TIMING: &str = r#"
[timing]
heartbeat = "500ms"
agent_lost_after = "6s"
give_up_after = "120s"
stalled_after = "120s"
clone_ping = "1s"
dispatch = "100ms"
schedule = "200ms"
progress_flush = "200ms"
liveness_flush = "500ms"
resolve = "1s"
verify = "300d"
certificate_lifetime = "1h"
retry_delay = "300ms"

[retention]
window = "1h"
apply = "500ms"
collect = "300d"
"#;

/// A controller; it survives being killed, with the same addresses.
#[derive(Debug)]
pub struct Controller {
    data_dir: PathBuf,
    database_url: String,
    log: PathBuf,
    process: Option<Process>,
    operators: Option<String>,
    agents: Option<String>,
}

impl Controller {
    /// Runs `init` and writes the configuration: what is there already, and [`TIMING`], of which `timing` replaces lines by their name.
    #[must_use]
    pub fn init(data_dir: &Path, database_url: &str, logs: &Path, timing: &[(&str, &str)]) -> Self {
        let config = data_dir.join("controller.toml");
        let prepared = fs::read_to_string(&config).unwrap_or_default();
        let status = program::command("holdfast-controller")
            .args(["init", "--data-dir"])
            .arg(data_dir)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(status.status.success(), "init failed: {}", String::from_utf8_lossy(&status.stderr));
        let mut lines: Vec<String> = TIMING.lines().map(str::to_owned).collect();
        for (name, value) in timing {
            let line = lines.iter_mut().find(|line| line.split(' ').next() == Some(name)).unwrap();
            *line = format!("{name} = \"{value}\"");
        }
        fs::write(config, lines.join("\n") + "\n" + &prepared).unwrap();
        let log = logs.join("controller.log");
        let (data_dir, database_url) = (data_dir.to_owned(), database_url.to_owned());
        Self { data_dir, database_url, log, process: None, operators: None, agents: None }
    }

    /// A second controller of the same fleet: same authority, keys, vault and database.
    #[must_use]
    pub fn beside(&self, data_dir: &Path, logs: &Path) -> Self {
        fs::create_dir(data_dir).unwrap();
        for part in ["pki", "vault.key"] {
            let copied = std::process::Command::new("cp")
                .arg("-a")
                .arg(self.data_dir.join(part))
                .arg(data_dir)
                .status();
            assert!(copied.unwrap().success());
        }
        let config = fs::read_to_string(self.data_dir.join("controller.toml")).unwrap();
        let in_s3 = config.contains("[vault]");
        let config = if in_s3 { config } else { format!("vault = {:?}\n{config}", self.vault_dir()) };
        fs::write(data_dir.join("controller.toml"), config).unwrap();
        let database_url = self.database_url.clone();
        let log = logs.join("controller-2.log");
        Self {
            data_dir: data_dir.to_owned(),
            database_url,
            log,
            process: None,
            operators: None,
            agents: None,
        }
    }

    /// Of the next start.
    pub fn use_database(&mut self, url: &str) {
        self.database_url = url.to_owned();
    }

    pub fn start(&mut self) {
        self.start_with("");
    }

    /// Starts it with failpoints armed, such as `gateway::prepared=1*return`, and waits until it serves.
    pub fn start_with(&mut self, failpoints: &str) {
        let addresses = self.data_dir.join("addresses.json");
        let _ = fs::remove_file(&addresses);
        let any = "127.0.0.1:0".to_owned();
        let mut command = program::command("holdfast-controller");
        command.args(["serve", "--data-dir"]).arg(&self.data_dir).args([
            "--database-url",
            &self.database_url,
            "--operators",
            self.operators.as_ref().unwrap_or(&any),
            "--agents",
            self.agents.as_ref().unwrap_or(&any),
        ]);
        if !failpoints.is_empty() {
            command.env("FAILPOINTS", failpoints);
        }
        let mut process = Process::spawn("holdfast-controller", command, &self.log);
        let text = wait::until("the controller's addresses", START_PATIENCE, || {
            assert!(!process.has_ended(), "the controller did not start");
            fs::read_to_string(&addresses).ok()
        });
        let found: Value = serde_json::from_str(&text).unwrap();
        self.operators = Some(found["operators"].as_str().unwrap().to_owned());
        self.agents = Some(found["agents"].as_str().unwrap().to_owned());
        self.process = Some(process);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.take().unwrap().stop()
    }

    /// Waits until a failpoint ends it.
    pub fn wait_for_crash(&mut self, failpoint: &str, patience: Duration) {
        let process = self.process.as_mut().unwrap();
        wait::until(
            &format!("{failpoint} to end the controller (is it built with its failpoints? tests/run does)"),
            patience,
            || process.has_ended().then_some(()),
        );
        self.process = None;
    }

    /// Of the running process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::has_ended)
    }

    /// `https://HOST:PORT` for operators.
    #[must_use]
    pub fn operators(&self) -> String {
        format!("https://{}", self.operators.as_ref().unwrap())
    }

    /// `https://HOST:PORT` for agents.
    #[must_use]
    pub fn agents(&self) -> String {
        format!("https://{}", self.agents.as_ref().unwrap())
    }

    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.data_dir.join("pki/ca.pem")
    }

    #[must_use]
    pub fn vault_dir(&self) -> PathBuf {
        self.data_dir.join("vault")
    }

    #[must_use]
    pub fn vault_key(&self) -> PathBuf {
        self.data_dir.join("vault.key")
    }

    /// `holdfast-controller api-key ...`
    #[must_use]
    pub fn manage_api_keys(&self, args: &[&str]) -> Answer {
        let mut command = program::command("holdfast-controller");
        command.arg("api-key").args(args).args(["--database-url", &self.database_url]);
        cli::finish("holdfast-controller api-key", command)
    }

    /// Makes an API key and keeps it in a file.
    #[must_use]
    pub fn create_api_key(&self, name: &str, role: &str) -> PathBuf {
        let answer = self.manage_api_keys(&["create", "--name", name, "--role", role]).succeeds();
        let path = self.data_dir.join(format!("{name}.api-key"));
        let mut file = fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, answer.stdout.as_bytes()).unwrap();
        path
    }
}
