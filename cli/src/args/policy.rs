use std::path::PathBuf;

use clap::{Args, Subcommand};

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
