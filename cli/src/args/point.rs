use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};

use super::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum PointCommand {
    /// Lists points, newest first.
    List {
        /// Only points of this machine.
        machine: Option<String>,
        /// Points that were deleted and can be undeleted as well.
        #[arg(long)]
        deleted: bool,
    },
    /// Shows a point with its disks.
    Show {
        /// Id, or MACHINE@latest.
        point: String,
    },
    /// Reads every byte that a point needs and compares it; fails if something is damaged.
    Verify {
        /// Id, or MACHINE@latest.
        point: String,
    },
    /// Deletes points; until their window is over they can be undeleted.
    Delete {
        /// Ids, or MACHINE@latest.
        #[arg(required = true)]
        points: Vec<String>,
    },
    /// Takes a deletion back. For one window from then no policy deletes the point; a lock keeps it longer.
    Undelete {
        /// Ids.
        #[arg(required = true)]
        points: Vec<String>,
    },
    /// Keeps a point from being deleted. A lock can be made longer and stricter, not shorter.
    Lock(LockArgs),
    /// Takes a governance lock back, or a compliance lock in its first 72 hours.
    Unlock {
        /// Id, or MACHINE@latest.
        point: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// Id, or MACHINE@latest.
    pub(crate) point: String,
    #[command(flatten)]
    pub(crate) end: LockEnd,
    /// Who can take it back.
    #[arg(long, value_enum, default_value_t = LockModeArg::Governance)]
    pub(crate) mode: LockModeArg,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct LockEnd {
    /// The lock ends then: 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<DateTime<Utc>>,
    /// The lock ends after so long, such as 12h or 30d.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LockModeArg {
    /// An admin can take it back.
    Governance,
    /// Nobody can take it back, once it is 72 hours old.
    Compliance,
}

impl LockEnd {
    /// An end too far away for a date is the last one there is.
    pub(crate) fn instant(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match (self.until, self.duration) {
            (Some(until), _) => until,
            (None, duration) => duration
                .and_then(|duration| chrono::TimeDelta::from_std(duration).ok())
                .and_then(|duration| now.checked_add_signed(duration))
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }
}
