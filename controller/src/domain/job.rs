//! States of jobs and steps, and the one table of legal transitions of each.
//!
//! ```text
//!  job   queued ──> running ──> succeeded | succeeded_with_warnings | failed | cancelled
//!          │  ^         │
//!          │  └─────────┘ (no agent heard of it)
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

use super::states::states;

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

states!(
    /// How an attempt of a step ended.
    AttemptOutcome {
        Done = "done",
        Failed = "failed",
        Cancelled = "cancelled",
        Lost = "lost",
    }
);

states!(Consistency { Application = "application", FileSystem = "file_system", Crash = "crash" });

impl JobState {
    pub(crate) fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The table of legal transitions.
    pub(crate) fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::Running | Self::Cancelled | Self::Expired),
            Self::Running => next != self && next != Self::Expired,
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
    fn the_table_of_job_states() {
        use JobState::{Cancelled, Expired, Failed, Queued, Running, Succeeded, SucceededWithWarnings};
        let table = [
            (Queued, vec![Running, Cancelled, Expired]),
            (Running, vec![Queued, Succeeded, SucceededWithWarnings, Failed, Cancelled]),
            (Succeeded, Vec::new()),
            (SucceededWithWarnings, Vec::new()),
            (Failed, Vec::new()),
            (Cancelled, Vec::new()),
            (Expired, Vec::new()),
        ];
        assert_eq!(table.each_ref().map(|(from, _)| *from), JobState::ALL);
        for (from, allowed) in table {
            let next: Vec<_> = JobState::ALL.iter().copied().filter(|to| from.may_become(*to)).collect();
            assert_eq!(next, allowed, "{from:?}");
            assert_eq!(from.is_terminal(), next.is_empty(), "{from:?}");
        }
    }

    #[test]
    fn an_attempt_is_out_from_its_dispatch_to_its_end() {
        let out: Vec<_> = StepState::ALL.iter().copied().filter(|state| state.is_out()).collect();
        assert_eq!(out, [StepState::Dispatched, StepState::Running]);
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
        for outcome in AttemptOutcome::ALL {
            assert_eq!(AttemptOutcome::parse(outcome.as_str()), Some(*outcome));
        }
        for consistency in Consistency::ALL {
            assert_eq!(Consistency::parse(consistency.as_str()), Some(*consistency));
        }
        assert_eq!(JobState::parse("Queued"), None);
        assert_eq!(StepState::parse(""), None);
        assert_eq!(StepKind::parse("transfer"), None);
        assert_eq!(AttemptOutcome::parse("won"), None);
        assert_eq!(Consistency::parse("none"), None);
    }
}
