//! The rules, pure: states and transitions, what follows a step's outcome. Knows nothing of tokio, SQL or tonic.

pub(crate) mod backup;
pub(crate) mod error;
pub(crate) mod job;
pub(crate) mod name;
#[cfg_attr(not(test), expect(dead_code, reason = "policies are its first caller"))]
pub(crate) mod schedule;
