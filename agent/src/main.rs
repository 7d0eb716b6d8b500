//! `holdfast-agent`: backs up the disks of the machine that it runs on, for the controller that it enrolled with. It dials
//! out and listens on nothing.

mod address;
mod agent;
mod attempt;
mod backoff;
mod blocking;
mod cli;
mod config;
mod context;
mod crash_point;
mod dial;
mod disk;
mod durable;
mod duration;
mod enrol;
mod error;
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
            if let Some(next) = next_step(error.as_ref()) {
                eprintln!("  next: {next}");
            }
            if error.is::<config::ConfigError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn next_step(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if error.is::<config::ConfigError>() {
        let next = "correct the file, or name another with --config; docs/configuration.md has every key";
        return Some(next.to_owned());
    }
    if let Some(error) = error.downcast_ref::<enrol::EnrolError>() {
        return error.action();
    }
    error.downcast_ref::<agent::StartError>()?.action().map(str::to_owned)
}

fn fail(error: &dyn std::error::Error) {
    eprintln!("error: {}", error::chain(error).trim_end());
}
