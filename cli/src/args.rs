mod job;
mod machine;
mod point;
mod policy;
mod token;
mod vault;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_restore::Existing;

pub(crate) use job::{JobCommand, JobListArgs, JobStateArg};
pub(crate) use machine::{LabelChange, MachineCommand};
pub(crate) use point::{LockArgs, LockModeArg, PointCommand};
pub(crate) use policy::{ApplyArgs, PolicyCommand};
pub(crate) use token::{TokenArgs, TokenCommand};
pub(crate) use vault::{CheckArgs, GcArgs, VaultCommand};

/// Backup for fleets of virtual machines.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the controller is. Otherwise the environment says it, otherwise ~/.config/holdfast/config.toml.
// The environment is read by `settings`: clap would name these options in the usage that it prints for a wrong call.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The controller's address, such as https://controller.example:7444 [env: HOLDFAST_ADDRESS].
    #[arg(long, global = true)]
    pub(crate) address: Option<String>,
    /// The controller's CA certificate, PEM [env: HOLDFAST_CA_FILE].
    #[arg(long, global = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// A file that holds your API key [env: HOLDFAST_API_KEY_FILE].
    #[arg(long, global = true)]
    pub(crate) api_key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the state of the whole fleet.
    Status,
    /// Prints the version.
    Version,
    /// Prints a completion script for a shell.
    Completion { shell: clap_complete::Shell },
    /// Enrolment tokens, with which agents join.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Machines under management.
    Machine {
        #[command(subcommand)]
        command: MachineCommand,
    },
    /// Policies: when backups of which machines are wanted.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Backs a machine up now.
    Backup(BackupArgs),
    /// Jobs.
    Job {
        #[command(subcommand)]
        command: JobCommand,
    },
    /// Recovery points.
    Point {
        #[command(subcommand)]
        command: PointCommand,
    },
    /// Restores a disk of a point to a file here.
    Restore(RestoreArgs),
    /// Where the points are stored.
    Vault {
        #[command(subcommand)]
        command: VaultCommand,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Name or id.
    pub(crate) machine: String,
    /// Only this disk; may be repeated.
    #[arg(long = "disk")]
    pub(crate) disks: Vec<String>,
    /// Waits for the end and shows progress.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Id, or MACHINE@latest.
    pub(crate) point: String,
    /// The disk; may be left out if the point has only one.
    #[arg(long)]
    pub(crate) disk: Option<String>,
    /// The file to make.
    #[arg(long)]
    pub(crate) to: PathBuf,
    /// How the file holds the disk.
    #[arg(long, value_enum, default_value_t = ImageFormat::Raw)]
    pub(crate) format: ImageFormat,
    /// Replaces the file if there is one; it stays until the new one is complete.
    #[arg(long)]
    overwrite: bool,
}

impl RestoreArgs {
    pub(crate) fn existing(&self) -> Existing {
        if self.overwrite { Existing::Replace } else { Existing::Keep }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageFormat {
    /// Byte for byte as the machine had it; zeros become holes.
    Raw,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| "write a number and a unit: 30m, 12h, 7d".to_owned())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("the unit must be s, m, h or d".to_owned()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "it is too long".to_owned())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
#[path = "../../tests/documented.rs"]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86400)));
        for (bad, word) in [
            ("", "a number and a unit"),
            ("h", "a number and a unit"),
            ("-1h", "a number and a unit"),
            ("99999999999999999999h", "a number and a unit"),
            ("1", "s, m, h or d"),
            ("1w", "s, m, h or d"),
            ("9999999999999999999d", "too long"),
        ] {
            let refused = parse_duration(bad).unwrap_err();
            assert!(refused.contains(word), "{bad}: {refused}");
        }
    }

    #[test]
    fn what_the_documentation_calls_is_there() {
        documented::assert_calls_parse("holdfast", 40, Cli::try_parse_from);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
