//! A whole agent in this process, with a state directory of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::controller::TestController;
use crate::agent::assemble;
use crate::config::Config;
use crate::identity::{AgentRecord, Identity, KeyRequest};
use crate::runner::Runner;
use crate::session::Session;
use crate::state_dir::StateDir;

pub(crate) struct TestAgent {
    stop: CancellationToken,
    tasks: TaskTracker,
    task: tokio::task::JoinHandle<()>,
}

/// An agent that does not run yet.
pub(crate) struct Assembled {
    pub(crate) session: Session,
    runner: Arc<Runner>,
    state: Arc<StateDir>,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
}

/// A directory for one machine: `state/`, and its disks.
pub(crate) struct TestMachine {
    dir: tempfile::TempDir,
    disks: Vec<(String, PathBuf)>,
    /// Lines in front of the tables of `agent.toml`.
    pub(crate) extra: String,
    /// Lines of the table `timing`.
    pub(crate) timing: String,
}

impl TestMachine {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            disks: Vec::new(),
            extra: String::new(),
            timing: String::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Adds a disk with this content.
    pub(crate) fn disk(&mut self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.raw"));
        std::fs::write(&path, content).unwrap();
        self.disks.push((name.to_owned(), path.clone()));
        path
    }

    /// Adds a disk that is there already.
    pub(crate) fn disk_at(&mut self, name: &str, path: &Path) {
        self.disks.push((name.to_owned(), path.to_owned()));
    }

    pub(crate) fn config(&self, controller: &TestController) -> Config {
        let mut text = format!(
            "controller = \"https://{}\"\nstate_dir = {:?}\ndiscover = false\n{}\n[timing]\nreconnect_min = \"50ms\"\n\
             reconnect_max = \"200ms\"\ncall_timeout = \"5s\"\ndisk_poll = \"200ms\"\nstall_timeout = \"5s\"\n\
             transfer_keepalive = \"200ms\"\n{}\n",
            controller.address,
            self.dir.path().join("state"),
            self.extra,
            self.timing,
        );
        for (name, path) in &self.disks {
            text.push_str(&format!("[[disk]]\nname = {name:?}\npath = {path:?}\n"));
        }
        let path = self.dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap()
    }

    /// Gives it an identity without asking for a token.
    pub(crate) fn enrol(&self, controller: &TestController, lifetime: Duration) {
        let key = KeyRequest::generate().unwrap();
        let identity = Identity {
            record: AgentRecord {
                agent_id: "agent".to_owned(),
                machine_id: "machine".to_owned(),
                machine_name: "name".to_owned(),
                certified_at: Utc::now(),
            },
            chain_pem: controller.ca.sign(&key.csr_der, lifetime),
            key_pem: key.key_pem,
            ca_pem: controller.ca.pem.clone(),
        };
        identity.store(&StateDir::open(&self.path().join("state")).unwrap()).unwrap();
    }

    /// What an agent is made of, enrolled for an hour if it is not yet.
    pub(crate) fn assemble(&self, controller: &TestController) -> Assembled {
        if !self.path().join("state/identity").try_exists().unwrap() {
            self.enrol(controller, Duration::from_secs(3600));
        }
        let config = self.config(controller);
        let state = Arc::new(StateDir::open(&config.state_dir).unwrap());
        let identity = Identity::load(&state).unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (session, runner) = assemble(config, &state, identity, &stop, &tasks).unwrap();
        Assembled { session, runner, state, stop, tasks }
    }

    /// Starts an agent, enrolled for an hour if it is not yet.
    pub(crate) fn start(&self, controller: &TestController) -> TestAgent {
        let Assembled { session, runner, state, stop, tasks } = self.assemble(controller);
        let task = tokio::spawn({
            let stop = stop.clone();
            async move {
                session.run(&stop).await;
                runner.shut_down().await;
                drop(state);
            }
        });
        TestAgent { stop, tasks, task }
    }
}

impl TestAgent {
    /// Stops it as SIGTERM does; what it only had in memory is gone.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.task.await.unwrap();
    }
}
