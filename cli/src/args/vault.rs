use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Shows what is in the vault, and its last garbage collection.
    Status,
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
}
