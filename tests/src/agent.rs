use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::cli::{self, Answer};
use crate::process::Process;
use crate::{program, wait};

/// An agent; it survives being killed.
#[derive(Debug)]
pub struct Agent {
    pub name: String,
    pub state_dir: PathBuf,
    pub config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

/// With what an agent enrols.
#[derive(Clone, Debug)]
pub struct Enrolment {
    pub token: String,
    pub ca_file: PathBuf,
}

impl Agent {
    /// Writes the configuration of an agent that is not enrolled yet.
    #[must_use]
    pub fn configure(
        folder: &Path,
        logs: &Path,
        name: &str,
        controller: &str,
        disks: &[(&str, &Path)],
    ) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        let agent = Self {
            name: name.to_owned(),
            state_dir: folder.join("state"),
            config: folder.join("agent.toml"),
            log: logs.join(format!("agent-{name}.log")),
            process: None,
        };
        agent.write_config(controller, disks);
        agent
    }

    fn write_config(&self, controller: &str, disks: &[(&str, &Path)]) {
        let mut text = format!(
            "controller = {controller:?}\nstate_dir = {:?}\ndiscover = false\n\
             [timing]\nreconnect_min = \"100ms\"\nreconnect_max = \"500ms\"\nconnect_timeout = \"5s\"\ncall_timeout = \"10s\"\n\
             disk_poll = \"1s\"\nstall_timeout = \"30s\"\ntransfer_patience = \"60s\"\n",
            self.state_dir,
        );
        for (name, path) in disks {
            text.push_str(&format!("[[disk]]\nname = {name:?}\npath = {path:?}\n"));
        }
        fs::write(&self.config, text).unwrap();
    }

    /// With the highest one a transfer takes seconds in which something can happen. For the next start.
    pub fn set_compression_level(&self, level: i32) {
        let text = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, format!("compression_level = {level}\n{text}")).unwrap();
    }

    /// A second agent with a copy of this one's state, as after cloning a machine.
    #[must_use]
    pub fn copy(&self, folder: &Path, logs: &Path, controller: &str, disks: &[(&str, &Path)]) -> Self {
        let copy = Self::configure(folder, logs, &format!("{}-copy", self.name), controller, disks);
        let status = Command::new("cp").arg("-a").arg(&self.state_dir).arg(&copy.state_dir).status().unwrap();
        assert!(status.success());
        copy
    }

    /// Runs `enrol`.
    #[must_use]
    pub fn enrol(&self, enrolment: &Enrolment) -> Answer {
        self.enrol_with(enrolment, &[])
    }

    /// Runs `enrol --force`.
    #[must_use]
    pub fn enrol_again(&self, enrolment: &Enrolment) -> Answer {
        self.enrol_with(enrolment, &["--force"])
    }

    /// Runs `enrol`, and dies there.
    pub fn dies_enrolling(&self, enrolment: &Enrolment, args: &[&str], failpoint: &str) {
        let mut command = self.enrolment_command(enrolment, args);
        command.env("FAILPOINTS", format!("{failpoint}=return"));
        let answer = cli::finish("holdfast-agent enrol", command);
        assert_eq!(
            answer.code, -1,
            "it is built without its failpoints (tests/run does otherwise): {answer:?}"
        );
    }

    fn enrol_with(&self, enrolment: &Enrolment, args: &[&str]) -> Answer {
        cli::finish("holdfast-agent enrol", self.enrolment_command(enrolment, args))
    }

    fn enrolment_command(&self, enrolment: &Enrolment, args: &[&str]) -> Command {
        let token_file = self.config.with_extension("token");
        fs::write(&token_file, &enrolment.token).unwrap();
        let mut command = program::command("holdfast-agent");
        command.args(["enrol", "--name", &self.name, "--config"]).arg(&self.config);
        command.arg("--token-file").arg(&token_file).arg("--ca-file").arg(&enrolment.ca_file).args(args);
        command
    }

    pub fn start(&mut self) {
        self.start_with("");
    }

    /// Starts it with failpoints armed.
    pub fn start_with(&mut self, failpoints: &str) {
        let mut command = program::command("holdfast-agent");
        command.args(["run", "--config"]).arg(&self.config);
        if !failpoints.is_empty() {
            command.env("FAILPOINTS", failpoints);
        }
        self.process = Some(Process::spawn(&self.name, command, &self.log));
    }

    /// Starts it as if the machine had booted anew, or were another one. Needs root.
    pub fn start_with_boot_id(&mut self, boot_id: &str) {
        let file = self.config.with_extension("boot_id");
        fs::write(&file, format!("{boot_id}\n")).unwrap();
        let agent = program::command("holdfast-agent");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg("mount --bind \"$1\" /proc/sys/kernel/random/boot_id; shift; exec \"$@\"");
        command.arg("sh").arg(&file).arg(agent.get_program()).args(["run", "--config"]).arg(&self.config);
        self.process = Some(Process::spawn(&self.name, command, &self.log));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM.
    pub fn stop(&mut self) {
        self.process.take().unwrap().stop();
    }

    /// SIGSTOP: it is as if it were gone, but it may come back.
    pub fn freeze(&mut self) {
        self.process.as_mut().unwrap().signal(Signal::STOP);
    }

    pub fn thaw(&mut self) {
        self.process.as_mut().unwrap().signal(Signal::CONT);
    }

    /// Of the running process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::has_ended)
    }

    /// Waits until a failpoint ends it.
    pub fn wait_for_crash(&mut self, failpoint: &str, patience: Duration) {
        let process = self.process.as_mut().unwrap();
        wait::until(
            &format!("{failpoint} to end the agent (is it built with its failpoints? tests/run does)"),
            patience,
            || process.has_ended().then_some(()),
        );
        self.process = None;
    }
}
