use clap::{Args, Subcommand};
use holdfast_restore::parse_percentage;

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Shows what is in the vault, and its last garbage collection.
    Status,
    /// Verifies what is stored; fails if something is damaged.
    Check(CheckArgs),
    /// Adds the machines and points of the vault that the controller's database does not have, such as after it was lost.
    RebuildCatalogue,
    /// Removes what no point and no backup needs any more. Done daily by itself.
    Gc(GcArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Says what would be done, and changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The controller's clock is right, although it leapt since the last collection: what was deleted long enough ago may go.
    #[arg(long)]
    pub(crate) trust_clock: bool,
    /// Looks for dead blocks in all machines instead of one in seven: takes long, and frees what can be freed now.
    #[arg(long)]
    pub(crate) compact_all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Reads every byte that the points need, once; otherwise only how they hang together is looked at.
    #[arg(long, conflicts_with = "sample")]
    pub(crate) read_data: bool,
    /// Reads so many of the segments, chosen at random: 5, 0.5%.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percentage)]
    pub(crate) sample: Option<u32>,
    /// Only this machine: name or id.
    #[arg(long)]
    pub(crate) machine: Option<String>,
}
