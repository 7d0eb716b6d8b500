use super::states::states;

states!(
    /// What an enrolment token is still good for.
    TokenState {
        Usable = "usable",
        UsedUp = "used_up",
        Expired = "expired",
        Revoked = "revoked",
        // The machine that it is for is gone.
        MachineRemoved = "machine_removed",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for state in TokenState::ALL {
            assert_eq!(TokenState::parse(state.as_str()), Some(*state));
        }
    }
}
