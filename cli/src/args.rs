mod point;
mod vault;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_restore::Existing;

pub(crate) use point::{LockArgs, LockModeArg, PointCommand};
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

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token. It is shown this once.
    Create(TokenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// How many agents may enrol with it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    pub(crate) uses: i32,
    /// How long it is good, such as 30m, 12h or 7d.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
    /// A label for the machines that enrol with it: KEY=VALUE.
    #[arg(long = "label", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// For a new agent in the place of this machine's old one, such as after its certificate ran out or its disk was lost:
    /// the machine keeps its points and labels, the old agent is refused from then on.
    #[arg(long, value_name = "MACHINE", conflicts_with_all = ["uses", "labels"])]
    pub(crate) machine: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MachineCommand {
    /// Lists machines by name.
    List {
        /// Those that were removed as well.
        #[arg(long)]
        all: bool,
    },
    /// Shows a machine with its disks, and what needs a look.
    Show {
        /// Name or id.
        machine: String,
    },
    /// Lets a machine work again that was quarantined because two answered under its identity.
    LiftQuarantine {
        /// Name or id.
        machine: String,
    },
    /// Ends a machine's protection: its agent is refused, and its name is free. Its points stay until they are deleted.
    Remove {
        /// Name or id.
        machine: String,
    },
    /// Sets and removes labels.
    Label {
        /// Name or id.
        machine: String,
        /// KEY=VALUE sets a label, KEY- removes it.
        #[arg(required = true, value_parser = parse_label_change)]
        changes: Vec<LabelChange>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelChange {
    Set(String, String),
    Remove(String),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Creates or changes the policies of a file.
    Apply(ApplyArgs),
    /// Lists policies by name.
    List,
    /// Shows a policy; with `-o yaml` in the form that `apply` takes.
    Show { name: String },
    /// Shows the next slots, and the machines that the policy protects.
    Preview {
        name: String,
        /// How many slots.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=100))]
        count: i32,
    },
    /// Deletes a policy; points and running jobs stay.
    Delete {
        name: String,
        /// Only if this is still its etag.
        #[arg(long)]
        etag: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// YAML, one or several documents; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Checks everything and changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only if this is still its etag: nobody else changed it.
    #[arg(long)]
    pub(crate) etag: Option<String>,
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

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Lists jobs, newest first.
    List(JobListArgs),
    /// Shows a job, its steps, and why it failed.
    Show {
        /// Id.
        job: String,
    },
    /// Waits for the end of a job; fails if the job does.
    Wait {
        /// Id.
        job: String,
    },
    /// Prints a job whenever it changes, until its end.
    Watch {
        /// Id.
        job: String,
    },
    /// Asks for the end of a job; what it did is undone.
    Cancel {
        /// Id.
        job: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JobListArgs {
    /// Only jobs of this machine.
    #[arg(long)]
    pub(crate) machine: Option<String>,
    /// Only jobs in this state.
    #[arg(long, value_enum)]
    pub(crate) state: Option<JobStateArg>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum JobStateArg {
    Queued,
    Running,
    Succeeded,
    SucceededWithWarnings,
    Failed,
    Cancelled,
    Expired,
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

fn parse_label_change(text: &str) -> Result<LabelChange, String> {
    match text.strip_suffix('-').filter(|key| !key.is_empty() && !key.contains('=')) {
        Some(key) => Ok(LabelChange::Remove(key.to_owned())),
        None => parse_label(text)
            .map(|(key, value)| LabelChange::Set(key, value))
            .map_err(|_| "write KEY=VALUE to set a label, KEY- to remove it".to_owned()),
    }
}

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
    fn label_changes() {
        let set = |key: &str, value: &str| Ok(LabelChange::Set(key.to_owned(), value.to_owned()));
        assert_eq!(parse_label_change("env=prod"), set("env", "prod"));
        assert_eq!(parse_label_change("env="), set("env", ""));
        assert_eq!(parse_label_change("env=a-"), set("env", "a-"));
        assert_eq!(parse_label_change("env-"), Ok(LabelChange::Remove("env".to_owned())));
        for bad in ["", "-", "=x", "env"] {
            let refused = parse_label_change(bad).unwrap_err();
            assert_eq!(refused, "write KEY=VALUE to set a label, KEY- to remove it", "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
