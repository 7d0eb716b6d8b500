use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::agent::Enrolment;
use crate::vault::VaultTool;
use crate::{Agent, Answer, Cli, Controller, Database, Postgres, image, wait};

const ONLINE_PATIENCE: Duration = Duration::from_secs(30);
/// Of each log, so much is printed when a test fails.
const LOG_TAIL: usize = 200;

/// A controller with its database and vault, and an operator.
#[derive(Debug)]
pub struct World {
    pub controller: Controller,
    pub cli: Cli,
    pub database: Database,
    pub postgres: Postgres,
    folder: TempDir,
}

impl World {
    /// With a running controller.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Postgres::shared(), &[])
    }

    /// With other periods than the usual ones.
    #[must_use]
    pub fn start_with(postgres: Postgres, timing: &[(&str, &str)]) -> Self {
        Self::start_in(temporary_folder(), postgres, timing)
    }

    /// A folder for [`World::start_in`], whose controller finds some configuration besides the usual periods.
    #[must_use]
    pub fn folder_with(configuration: &str) -> TempDir {
        let folder = temporary_folder();
        let data = folder.path().join("controller");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("controller.toml"), configuration).unwrap();
        folder
    }

    /// In a folder that may be prepared: the controller's data goes to `controller`.
    #[must_use]
    pub fn start_in(mut folder: TempDir, postgres: Postgres, timing: &[(&str, &str)]) -> Self {
        folder.disable_cleanup(std::env::var_os("HOLDFAST_TEST_KEEP").is_some());
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let database = Database::create(&postgres);
        let mut controller =
            Controller::init(&folder.path().join("controller"), database.url(), &logs, timing);
        controller.start();
        let api_key_file = controller.create_api_key("operator", "admin");
        let cli = Cli { address: controller.operators(), ca_file: controller.ca_file(), api_key_file };
        Self { controller, cli, database, postgres, folder }
    }

    /// The database is lost, and the controller goes on with an empty one.
    pub fn lose_database(&mut self) {
        self.controller.stop();
        self.database = Database::create(&self.postgres);
        self.controller.use_database(self.database.url());
        self.cli.api_key_file = self.controller.create_api_key("me", "admin");
        self.controller.start();
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// The same controller for another operator.
    #[must_use]
    pub fn cli_with_key(&self, api_key_file: PathBuf) -> Cli {
        Cli { api_key_file, ..self.cli.clone() }
    }

    #[must_use]
    pub fn vault(&self) -> VaultTool {
        VaultTool { vault: self.controller.vault_dir(), key: self.controller.vault_key() }
    }

    /// A fresh token and the CA that goes with it.
    #[must_use]
    pub fn enrolment(&self, args: &[&str]) -> Enrolment {
        let token = self.cli.json(&[&["token", "create"], args].concat());
        Enrolment { token: token["token"].as_str().unwrap().to_owned(), ca_file: self.controller.ca_file() }
    }

    /// An agent that is configured and not more.
    #[must_use]
    pub fn new_agent(&self, name: &str, disks: &[(&str, &Path)]) -> Agent {
        Agent::configure(&self.path("agents"), &self.logs(), name, &self.controller.agents(), disks)
    }

    /// An agent that is enrolled.
    #[must_use]
    pub fn enrolled_agent(&self, name: &str, disks: &[(&str, &Path)]) -> Agent {
        let agent = self.new_agent(name, disks);
        let _ = agent.enrol(&self.enrolment(&[])).succeeds();
        agent
    }

    /// An agent that is enrolled and online.
    #[must_use]
    pub fn running_agent(&self, name: &str, disks: &[(&str, &Path)]) -> Agent {
        let mut agent = self.enrolled_agent(name, disks);
        agent.start();
        self.wait_for_machine(name, "online");
        agent
    }

    pub fn wait_for_machine(&self, name: &str, state: &str) {
        wait::until(&format!("machine {name} to be {state}"), ONLINE_PATIENCE, || {
            (self.machine(name)["state"] == state).then_some(())
        });
    }

    #[must_use]
    pub fn machine(&self, name: &str) -> Value {
        self.cli.json(&["machine", "show", name])
    }

    /// Queues a backup and gives the job's id.
    #[must_use]
    pub fn start_backup(&self, machine: &str) -> String {
        let job = self.cli.json(&["backup", machine]);
        job["id"].as_str().unwrap_or_else(|| panic!("{job}")).to_owned()
    }

    /// Waits for a job's end, whatever it is, and gives it.
    #[must_use]
    pub fn wait_for_job(&self, id: &str) -> Value {
        let answer: Answer = self.cli.run(&["job", "wait", id, "-o", "json"]);
        let job = answer.json();
        let succeeded = matches!(job["state"].as_str(), Some("succeeded" | "succeeded_with_warnings"));
        assert_eq!(answer.code == 0, succeeded, "{answer:?}");
        job
    }

    #[must_use]
    pub fn job(&self, id: &str) -> Value {
        self.cli.json(&["job", "show", id])
    }

    /// A backup that must succeed; gives the id of its point.
    #[must_use]
    pub fn back_up(&self, machine: &str) -> String {
        let job = self.cli.json(&["backup", machine, "--wait"]);
        assert_eq!(job["state"], "succeeded", "{job:#}");
        job["point"].as_str().unwrap_or_else(|| panic!("{job:#}")).to_owned()
    }

    #[must_use]
    pub fn point(&self, id: &str) -> Value {
        self.cli.json(&["point", "show", id])
    }

    /// Those that were deleted and can be undeleted are among them.
    #[must_use]
    pub fn point_ids(&self) -> BTreeSet<String> {
        let points = self.cli.json(&["point", "list", "--deleted"]);
        let ids = points.as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned());
        ids.collect()
    }

    /// Every point of the catalogue is in the vault, and every point in the vault is in the catalogue: at once, or after the next comparison.
    pub fn assert_catalogue_is_the_vault(&self) {
        wait::until("the catalogue to be the vault", Duration::from_secs(20), || {
            (self.point_ids() == self.vault().point_ids()).then_some(())
        });
    }

    /// Restores through the CLI and compares.
    pub fn assert_restores(&self, point: &str, disk: &str, expected: &Path) {
        let file = self.path("restored.raw");
        let _ = self.cli.run(&["restore", point, "--disk", disk, "--to", file.to_str().unwrap()]).succeeds();
        image::assert_same(expected, &file);
        fs::remove_file(&file).unwrap();
    }

    /// Restores through `holdfast-vault`, without the controller, and compares.
    pub fn assert_vault_restores(&self, point: &str, disk: &str, expected: &Path) {
        let file = self.path("restored-by-vault.raw");
        let args = ["restore", "--point", point, "--disk", disk, "--to", file.to_str().unwrap()];
        let _ = self.vault().run(&args).succeeds();
        image::assert_same(expected, &file);
        fs::remove_file(&file).unwrap();
    }
}

fn temporary_folder() -> TempDir {
    tempfile::Builder::new().prefix("hf-test-").tempdir().unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(self.logs()).into_iter().flatten().flatten() {
            let text = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- {}", entry.path().display());
            for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
                eprintln!("{line}");
            }
        }
    }
}
