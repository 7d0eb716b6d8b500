use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Reads a Holdfast vault with nothing but its directory and its key: no controller, no database.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.")]
pub(crate) struct Args {
    /// Directory of the vault.
    #[arg(long, value_name = "DIR")]
    pub(crate) vault: PathBuf,
    /// Key file of the vault.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists machines and their points.
    List {
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Writes one disk of a point to a file.
    Restore(RestoreOptions),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreOptions {
    /// Id of a point, or MACHINE@latest, where MACHINE is a name or an id.
    #[arg(long, value_name = "POINT")]
    pub(crate) point: String,
    /// Needed if the point has several disks.
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Option<String>,
    /// File to write; it appears under this name when it is complete and verified.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}
