//! `holdfast-agent`: backs up the disks of the machine that it runs on, for the controller that it enrolled with. It dials
//! out and listens on nothing.

mod address;
mod agent;
mod attempt;
mod backoff;
mod cli;
mod config;
mod dial;
mod disk;
mod durable;
mod duration;
mod enrol;
mod error;
mod failpoint;
mod hooks;
mod identity;
mod kernel;
mod outbox;
mod renew;
mod runner;
mod session;
mod snapshot;
mod spool;
mod state_dir;
mod step;
#[cfg(test)]
mod testing;
mod tls;
mod transfer;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Kept for the life of the process: it takes the failpoints down when it is dropped.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let cli = cli::Cli::parse();
    if cli.is_watchdog() {
        // Nothing of the agent: no log, no threads, no configuration.
        return snapshot::watchdog::serve();
    }
    let filter = EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            fail(&error);
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli.run());
    // A read from a disk that does not answer must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(error.as_ref());
            if error.is::<config::ConfigError>() {
                eprintln!(
                    "  next: correct the file, or name another with --config; docs/configuration.md has every key"
                );
                return ExitCode::from(2);
            }
            ExitCode::FAILURE
        }
    }
}

fn fail(error: &dyn std::error::Error) {
    eprintln!("error: {}", error::chain(error).trim_end());
}
