use clap::{Args, Subcommand, ValueEnum};

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
