//! `holdfast-controller`: keeps policies and job state in Postgres, dispatches work to agents and takes their data in.
//!
//! From the outside in: `config` and `serve` set up, `listen`, `pki` and `identity` are the edges, `api` and `session` the
//! services, `tasks` what happens by itself, `domain` the decisions, `store` the catalogue.

mod api;
mod api_key;
mod app;
mod authority;
mod collection;
mod config;
mod domain;
mod identity;
mod init;
mod listen;
mod live;
mod pki;
mod rpc_error;
mod serve;
mod session;
mod store;
mod tasks;
mod telemetry;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use api_key::ApiKeyError;
use config::{Cli, Command, ConfigError, InitConfig, ServeConfig};
use init::InitError;
use serve::ServeError;

/// For work on other threads that the end of the process need not wait for.
const LEFT_OVER_WORK: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup();
    let cli = Cli::parse();
    telemetry::start_logs(cli.log_format);
    // Everything that speaks TLS here names its provider; this is for libraries that take the default.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&error, None);
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(Box::pin(run(cli)));
    runtime.shutdown_timeout(LEFT_OVER_WORK);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, failure.next_step());
            failure.exit_code()
        }
    }
}

/// Why the process ends with a failure.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
}

impl Failure {
    /// 2 for what is wrong with the call or the configuration, 1 for everything else.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::ApiKey(ApiKeyError::Config { .. } | ApiKeyError::Name { .. }) => {
                ExitCode::from(2)
            }
            _ => ExitCode::FAILURE,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.next_step(),
            Self::Init(error) => error.next_step(),
            Self::Serve(error) => error.next_step(),
            Self::ApiKey(error) => error.next_step(),
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let file = cli.config.as_deref();
    match cli.command {
        Command::Init(command) => init::run(InitConfig::resolve(file, command)?).await?,
        Command::Serve(command) => Box::pin(serve::run(ServeConfig::resolve(file, command)?)).await?,
        Command::ApiKey(command) => api_key::run(file, command).await?,
    }
    Ok(())
}

fn report(error: &dyn Error, next_step: Option<String>) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the source in their own words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    eprintln!("error: {}", text.trim_end());
    if let Some(next_step) = next_step {
        eprintln!("  next: {next_step}");
    }
}
