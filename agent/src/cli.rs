//! The command line.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::enrol::{EnrolError, Enrolment, Existing, enrol};
use crate::snapshot::watchdog;
use crate::state_dir::StateDir;
use crate::tls::FirstTrust;

/// The controller takes none that is longer.
const LONGEST_TOKEN: usize = 128;

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
    /// A file with the token alone, as `holdfast token create --to FILE` makes it: other users cannot see it in the list of processes.
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
            (None, Some(path)) => read_token(path)?,
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

/// Reads a token that is alone in a file; a whole answer of `holdfast` would only be refused by the controller, in words about tokens.
fn read_token(path: &Path) -> Result<String, EnrolError> {
    let bytes =
        std::fs::read(path).map_err(|source| EnrolError::ReadFile { path: path.to_owned(), source })?;
    let word = bytes.trim_ascii();
    let found = match word.len() {
        0 => "it is empty",
        _ if !word.iter().all(u8::is_ascii_graphic) => "it holds more than one word",
        1..=LONGEST_TOKEN => return Ok(String::from_utf8_lossy(word).into_owned()),
        _ => "it holds a word that is longer than any token",
    };
    Err(EnrolError::NotAToken { path: path.to_owned(), found })
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

    #[test]
    fn a_token_file_holds_one_word_and_says_so_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            read_token(&path)
        };
        let longest = "x".repeat(LONGEST_TOKEN);
        for token in ["hft_445ff59986e5628a", &longest] {
            for content in [token.to_owned(), format!("{token}\n"), format!(" {token}\r\n\n")] {
                assert_eq!(read(content.as_bytes()).unwrap(), token);
            }
        }
        let table = "token           hft_445f\nexpires         2026-11-23T08:44:56Z\n";
        let too_long = format!("{longest}x");
        for (content, found) in [
            (&b""[..], "is empty"),
            (b" \n", "is empty"),
            (table.as_bytes(), "more than one word"),
            (b"{\"token\":\n\"hft_445f\"}", "more than one word"),
            (b"hft_\xff\xfe", "more than one word"),
            (too_long.as_bytes(), "longer than any token"),
        ] {
            let error = read(content).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(found) && text.contains("the token alone"), "{text}");
            assert!(!text.contains("hft_"), "what may be a secret is not repeated: {text}");
            assert!(error.action().unwrap().contains("holdfast token create --to FILE"), "{error:?}");
        }
        assert!(matches!(read_token(&dir.path().join("none")), Err(EnrolError::ReadFile { .. })));
    }
}
