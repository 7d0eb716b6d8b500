use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_tests::agent::Enrolment;
use holdfast_tests::{Agent, Cli, Controller, Database, Postgres, program, wait};

use crate::Program;
use crate::cost::{self, Cost, Watched};

const MACHINE: &str = "bench";

/// How an agent compresses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compression {
    Usual,
    /// As much as is worth waiting for.
    Dense,
}

const DENSE: i32 = 12;

/// A whole installation with one machine; periods are the ones that users have.
pub(crate) struct Holdfast {
    cli: Cli,
    agents: Vec<Agent>,
    controller: Controller,
    vault: PathBuf,
    _database: Database,
    _postgres: Postgres,
}

impl Holdfast {
    pub(crate) fn start(folder: &Path, disk: &Path, compression: Compression) -> Self {
        let (mut started, folders) = Self::without_agents(folder);
        started.add(&folders, MACHINE, disk, compression);
        started
    }

    /// With no machine yet; answers the folders of agents and logs.
    pub(crate) fn without_agents(folder: &Path) -> (Self, [PathBuf; 2]) {
        let logs = folder.join("logs");
        fs::create_dir(&logs).unwrap();
        let postgres = Postgres::shared();
        let database = Database::create(&postgres);
        let data_dir = folder.join("controller");
        let mut controller = Controller::init(&data_dir, database.url(), &logs, &[]);
        fs::write(data_dir.join("controller.toml"), "").unwrap();
        controller.start();
        let api_key_file = controller.create_api_key("operator", "admin");
        let cli = Cli { address: controller.operators(), ca_file: controller.ca_file(), api_key_file };
        let vault = controller.vault_dir();
        let started =
            Self { cli, agents: Vec::new(), controller, vault, _database: database, _postgres: postgres };
        (started, [folder.join("agents"), logs])
    }

    /// One more machine.
    pub(crate) fn add(
        &mut self,
        [agents, logs]: &[PathBuf; 2],
        machine: &str,
        disk: &Path,
        compression: Compression,
    ) {
        let (cli, controller) = (&self.cli, &self.controller);
        let token = cli.json(&["token", "create"])["token"].as_str().unwrap().to_owned();
        let mut agent = Agent::configure(agents, logs, machine, &controller.agents(), &[("disk", disk)]);
        match compression {
            Compression::Usual => {}
            Compression::Dense => agent.set_compression_level(DENSE),
        }
        let _ = agent.enrol(&Enrolment { token, ca_file: controller.ca_file() }).succeeds();
        agent.start();
        wait::until("the machine to be online", std::time::Duration::from_secs(60), || {
            (cli.json(&["machine", "show", machine])["state"] == "online").then_some(())
        });
        self.agents.push(agent);
    }

    pub(crate) fn cli(&self) -> &Cli {
        &self.cli
    }

    /// Of agent, controller and client; Postgres has next to nothing to do.
    fn run(&self, mut command: Command) -> Cost {
        command.envs(self.cli.environment());
        let agent = Watched::start(self.agents[0].pid());
        let controller = Watched::start(self.controller.pid());
        let cost = cost::of(command);
        let (agent_cpu, agent_peak) = agent.end();
        let (controller_cpu, controller_peak) = controller.end();
        Cost {
            wall: cost.wall,
            cpu: cost.cpu + agent_cpu + controller_cpu,
            peaks_kib: vec![agent_peak, controller_peak, cost.peaks_kib[0]],
        }
    }
}

impl Program for Holdfast {
    fn back_up(&mut self, _disk: &Path) -> Cost {
        let mut command = program::command("holdfast");
        command.args(["backup", MACHINE, "--wait", "-o", "json"]);
        self.run(command)
    }

    fn restore(&mut self, to: &Path) -> Cost {
        let mut command = program::command("holdfast");
        command.args(["restore", &format!("{MACHINE}@latest"), "--disk", "disk", "--to"]);
        command.arg(to.join("disk.raw"));
        self.run(command)
    }

    fn verify(&mut self) -> Option<Cost> {
        let mut command = program::command("holdfast");
        command.args(["vault", "check", "--read-data"]);
        Some(self.run(command))
    }

    fn repository(&self) -> &Path {
        &self.vault
    }
}
