use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{parse_duration, parse_label};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token. It is shown this once.
    Create(TokenArgs),
    /// Lists tokens, newest first: who has one of them can enrol an agent.
    List {
        /// Those that are used up, expired or revoked as well.
        #[arg(long)]
        all: bool,
    },
    /// Ends a token: nobody enrols with it any more. Agents that enrolled with it stay.
    Revoke {
        /// Id, as `token list` tells it, or the token itself
        token: String,
    },
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
    /// Writes the token to a new file that only you can read, for `holdfast-agent enrol --token-file`, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}
