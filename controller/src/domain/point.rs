//! States of points, and how they are locked.

use super::states::states;

states!(PointState {
    Listed = "listed",
    Damaged = "damaged",
    SoftDeleted = "soft_deleted",
    Purged = "purged",
});

states!(LockMode { Governance = "governance", Compliance = "compliance" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for state in PointState::ALL {
            assert_eq!(PointState::parse(state.as_str()), Some(*state));
        }
        for mode in LockMode::ALL {
            assert_eq!(LockMode::parse(mode.as_str()), Some(*mode));
        }
        assert_eq!((PointState::parse("kept"), LockMode::parse("")), (None, None));
    }
}
