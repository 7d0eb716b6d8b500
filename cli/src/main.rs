//! `holdfast`: the operator's client. What it prints with `-o json`, its exit codes and its commands are a contract.

mod args;
mod backup;
mod check;
mod client;
mod error;
mod follow;
mod interrupt;
mod job;
mod machine;
mod output;
mod point;
mod policy;
mod progress;
mod restore;
mod settings;
mod status;
mod token;
mod vault;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{
    Cli, Command, JobCommand, MachineCommand, PointCommand, PolicyCommand, TokenCommand, VaultCommand,
};
use client::Client;
use error::CliError;
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One provider, named by us: rustls would not choose between two.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return CliError::Runtime { source }.report(),
    };
    match runtime.block_on(Box::pin(run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let output = Output { format: cli.output };
    match &cli.command {
        Command::Version => return output.version(),
        Command::Completion { shell } => {
            // Not straight to stdout: it would panic when nobody reads to the end.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "holdfast", &mut script);
            return output::write(&String::from_utf8_lossy(&script));
        }
        Command::Restore(args) => restore::check_target(args)?,
        Command::Token { command: TokenCommand::Create(args) } => token::check_file(args)?,
        _ => {}
    }
    let client = Client::connect(&settings::load(&cli.connection)?).await?;
    match cli.command {
        Command::Status => status::show(client, output).await,
        Command::Token { command } => match command {
            TokenCommand::Create(args) => token::create(client, output, args).await,
            TokenCommand::List { all } => token::list(client, output, all).await,
            TokenCommand::Revoke { token } => token::revoke(client, output, token).await,
        },
        Command::Machine { command } => match command {
            MachineCommand::List { all } => machine::list(client, output, all).await,
            MachineCommand::Show { machine } => machine::show(client, output, machine).await,
            MachineCommand::Label { machine, changes } => {
                machine::label(client, output, machine, changes).await
            }
            MachineCommand::LiftQuarantine { machine } => {
                machine::lift_quarantine(client, output, machine).await
            }
            MachineCommand::Remove { machine } => machine::remove(client, output, machine).await,
        },
        Command::Policy { command } => match command {
            PolicyCommand::Apply(args) => policy::apply(client, output, args).await,
            PolicyCommand::List => policy::list(client, output).await,
            PolicyCommand::Show { name } => policy::show(client, output, name).await,
            PolicyCommand::Preview { name, count } => policy::preview(client, output, name, count).await,
            PolicyCommand::Delete { name, etag } => policy::delete(client, output, name, etag).await,
        },
        Command::Backup(args) => backup::start(client, output, args).await,
        Command::Job { command } => match command {
            JobCommand::List(args) => job::list(client, output, args).await,
            JobCommand::Show { job } => job::show(client, output, job).await,
            JobCommand::Wait { job } => job::wait(client, output, job).await,
            JobCommand::Watch { job } => job::watch(client, output, job).await,
            JobCommand::Cancel { job } => job::cancel(client, output, job).await,
        },
        Command::Point { command } => match command {
            PointCommand::List { machine, deleted } => point::list(client, output, machine, deleted).await,
            PointCommand::Show { point } => point::show(client, output, point).await,
            PointCommand::Verify { point } => check::point(client, output, point).await,
            PointCommand::Delete { points } => point::delete(client, output, points).await,
            PointCommand::Undelete { points } => point::undelete(client, output, points).await,
            PointCommand::Lock(args) => point::lock(client, output, args).await,
            PointCommand::Unlock { point } => point::unlock(client, output, point).await,
        },
        Command::Vault { command: VaultCommand::Status } => vault::status(client, output).await,
        Command::Vault { command: VaultCommand::Check(args) } => check::vault(client, output, args).await,
        Command::Vault { command: VaultCommand::RebuildCatalogue } => {
            vault::rebuild_catalogue(client, output).await
        }
        Command::Vault { command: VaultCommand::Gc(args) } => vault::gc(client, output, args).await,
        Command::Restore(args) => restore::run(client, output, args).await,
        Command::Version | Command::Completion { .. } => Ok(()),
    }
}
