use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{program, wait};

/// A Postgres for tests: the one of the whole run, or one of our own.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    /// Our own cluster.
    cluster: Option<TempDir>,
}

impl Postgres {
    /// The one that `HOLDFAST_TEST_POSTGRES_URL` names, as `tests/run` does; else one for this test.
    #[must_use]
    pub fn shared() -> Self {
        match std::env::var("HOLDFAST_TEST_POSTGRES_URL") {
            Ok(url) if !url.is_empty() => Self { url, cluster: None },
            _ => Self::own(),
        }
    }

    /// One that the test may kill.
    #[must_use]
    pub fn own() -> Self {
        // The user that Postgres runs as has to get in.
        let parent = tempfile::Builder::new()
            .prefix("hf-pg-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let url = script("start", parent.path());
        Self { url, cluster: Some(parent) }
    }

    /// URL of its database `holdfast`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// SIGKILL to the server, as a crash or a reboot does, and starts it again.
    pub fn crash(&self) {
        let folder = self.folder();
        let pid = std::fs::read_to_string(folder.join("c/data/postmaster.pid")).unwrap();
        let pid = Pid::from_raw(pid.lines().next().unwrap().parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        wait::until("the end of Postgres", Duration::from_secs(10), || {
            rustix::process::test_kill_process(pid).is_err().then_some(())
        });
    }

    /// Starts it again after a crash.
    pub fn restart(&self) {
        script("start", self.folder());
    }

    /// A copy of all that it holds, as a backup of it would be. It is killed before, and started again.
    #[must_use]
    pub fn save(&self) -> TempDir {
        self.crash();
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.folder().join("c/data"), &copy.path().join("data"));
        self.restart();
        copy
    }

    /// Puts a copy back.
    pub fn put_back(&self, copy: &TempDir) {
        self.crash();
        let data = self.folder().join("c/data");
        std::fs::remove_dir_all(&data).unwrap();
        copy_folder(&copy.path().join("data"), &data);
        self.restart();
    }

    fn folder(&self) -> &Path {
        self.cluster.as_ref().expect("a shared Postgres is not killed").path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(parent) = &self.cluster {
            script("stop", parent.path());
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "{} is not copied", from.display());
}

fn script(verb: &str, parent: &Path) -> String {
    let mut command = Command::new(program::repository().join("deploy/private-postgres"));
    command.arg(verb);
    if verb == "start" {
        command.arg("--fast");
    }
    let output =
        command.arg(parent.join("c")).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "private-postgres {verb} failed");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
