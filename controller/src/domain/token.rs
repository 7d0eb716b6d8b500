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
