//! The command line.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::enrol::{EnrolError, Enrolment, Existing, enrol};
use crate::snapshot::watchdog;
use crate::state_dir::StateDir;
use crate::tls::FirstTrust;

/// Backs up the disks of this machine.
#[derive(Debug, Parser)]
#[command(name = "holdfast-agent", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Exchange an enrolment token for this machine's identity.
    #[command(alias = "enroll")]
    Enrol(EnrolArgs),
    /// Serve the controller until SIGTERM.
    Run(RunArgs),
    /// Started by the agent itself.
    #[command(name = watchdog::COMMAND, hide = true)]
    Watchdog,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Configuration file.
    #[arg(long, default_value = "/etc/holdfast/agent.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("secret").required(true))]
#[command(group = clap::ArgGroup::new("trust").required(true))]
struct EnrolArgs {
    /// Configuration file.
    #[arg(long, default_value = "/etc/holdfast/agent.toml")]
    config: PathBuf,
    /// The token as printed by `holdfast token create`.
    #[arg(long, group = "secret")]
    token: Option<String>,
    /// A file with the token: other users cannot see it in the list of processes.
    #[arg(long, group = "secret", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The controller's CA certificate, PEM.
    #[arg(long, group = "trust", value_name = "PEM")]
    ca_file: Option<PathBuf>,
    /// SHA-256 of the controller's CA certificate, 64 hex digits.
    #[arg(long, group = "trust", value_name = "HEX", value_parser = fingerprint)]
    ca_fingerprint: Option<[u8; 32]>,
    /// The machine's name; by default its host name.
    #[arg(long)]
    name: Option<String>,
    /// Replace an identity that is there already.
    #[arg(long)]
    force: bool,
}

impl Cli {
    /// Whether this process is to be a watchdog, which is no program for a person.
    pub(crate) fn is_watchdog(&self) -> bool {
        matches!(self.command, Command::Watchdog)
    }

    /// Runs the command.
    ///
    /// # Errors
    /// For a person to read.
    pub(crate) async fn run(self) -> Result<(), Box<dyn Error>> {
        match self.command {
            Command::Enrol(args) => Box::pin(args.run()).await?,
            Command::Run(args) => {
                Box::pin(crate::agent::run(Config::load(&args.config)?, &args.config)).await?;
            }
            Command::Watchdog => {}
        }
        Ok(())
    }
}

impl EnrolArgs {
    async fn run(self) -> Result<(), Box<dyn Error>> {
        let config = Config::load(&self.config)?;
        let trust = match (&self.ca_file, self.ca_fingerprint) {
            (Some(path), _) => FirstTrust::CaPem(read(path)?),
            (None, Some(fingerprint)) => FirstTrust::Fingerprint(fingerprint),
            (None, None) => return Err("give --ca-file or --ca-fingerprint".into()),
        };
        let token = match (self.token, &self.token_file) {
            (Some(token), _) => token,
            (None, Some(path)) => read(path)?,
            (None, None) => return Err("give --token or --token-file".into()),
        };
        let state = StateDir::open(&config.state_dir)?;
        let enrolment = Enrolment {
            token: token.trim().to_owned(),
            trust,
            machine_name: self.name,
            existing: if self.force { Existing::Replace } else { Existing::Keep },
        };
        let record = enrol(&config, &state, enrolment).await?;
        println!("enrolled as machine {} ({})", record.machine_name, record.machine_id);
        println!("next: holdfast-agent run --config {}", self.config.display());
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, EnrolError> {
    std::fs::read_to_string(path).map_err(|source| EnrolError::ReadFile { path: path.to_owned(), source })
}

/// Reads 64 hex digits; colons between bytes are fine.
fn fingerprint(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.replace(':', ""), &mut bytes)
        .map_err(|_| "a fingerprint has 64 hex digits".to_owned())?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "../../tests/documented.rs"]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_calls_is_there() {
        // A fingerprint is cut short there.
        let whole = |word: String| if word.ends_with('…') { "0".repeat(64) } else { word };
        let parse = |words: Vec<String>| Cli::try_parse_from(words.into_iter().map(whole));
        documented::assert_calls_parse("holdfast-agent", 3, parse);
    }
}
