//! States of jobs and steps, and the one table of legal transitions of each.
//!
//! ```text
//!  job   queued ──> running ──> succeeded | succeeded_with_warnings | failed | cancelled
//!          └──────> cancelled | expired
//!
//!  step  pending ──> dispatched ──> running ──> done | failed
//!          ^  │          │  │          │
//!          │  └> skipped │  └──────────┼──────> done | failed
//!          └─────────────┴─────────────┘          (attempt lost, or to be tried again)
//!        done ──> pending                         (take_snapshot only: its snapshot was lost)
//! ```
//!
//! Terminal job states are never left.

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name { $($variant),+ }

        impl $name {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in SQL, on the command line and in logs.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub(crate) fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

states!(JobState {
    Queued = "queued",
    Running = "running",
    Succeeded = "succeeded",
    SucceededWithWarnings = "succeeded_with_warnings",
    Failed = "failed",
    Cancelled = "cancelled",
    Expired = "expired",
});

states!(
    /// The steps of a backup, in their order.
    StepKind {
        TakeSnapshot = "take_snapshot",
        TransferData = "transfer_data",
        ReleaseSnapshot = "release_snapshot",
    }
);

states!(StepState {
    Pending = "pending",
    Dispatched = "dispatched",
    Running = "running",
    Done = "done",
    Failed = "failed",
    Skipped = "skipped",
});

states!(Consistency { Application = "application", FileSystem = "file_system", Crash = "crash" });

impl JobState {
    pub(crate) fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The table of legal transitions.
    pub(crate) fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::Running | Self::Cancelled | Self::Expired),
            Self::Running => next.is_terminal() && next != Self::Expired,
            _ => false,
        }
    }
}

impl StepKind {
    pub(crate) const IN_ORDER: [Self; 3] = [Self::TakeSnapshot, Self::TransferData, Self::ReleaseSnapshot];
}

impl StepState {
    /// An attempt of it is out.
    pub(crate) fn is_out(self) -> bool {
        matches!(self, Self::Dispatched | Self::Running)
    }

    /// The table of legal transitions; the decisions of `backup` are tested against it.
    #[cfg(test)]
    pub(crate) fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => matches!(next, Self::Dispatched | Self::Skipped | Self::Failed),
            Self::Dispatched => matches!(next, Self::Running | Self::Done | Self::Failed | Self::Pending),
            Self::Running => matches!(next, Self::Done | Self::Failed | Self::Pending),
            Self::Done => next == Self::Pending,
            Self::Failed | Self::Skipped => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_job_states_are_never_left() {
        for from in JobState::ALL.iter().filter(|state| state.is_terminal()) {
            for to in JobState::ALL {
                assert!(!from.may_become(*to), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn every_state_reads_back() {
        for state in JobState::ALL {
            assert_eq!(JobState::parse(state.as_str()), Some(*state));
        }
        for state in StepState::ALL {
            assert_eq!(StepState::parse(state.as_str()), Some(*state));
        }
        for kind in StepKind::ALL {
            assert_eq!(StepKind::parse(kind.as_str()), Some(*kind));
        }
        for consistency in Consistency::ALL {
            assert_eq!(Consistency::parse(consistency.as_str()), Some(*consistency));
        }
    }
}
