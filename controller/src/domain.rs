//! The rules, pure: states and transitions, what follows a step's outcome. Knows nothing of tokio, SQL or tonic.

pub(crate) mod backup;
pub(crate) mod condition;
pub(crate) mod error;
pub(crate) mod job;
pub(crate) mod name;
pub(crate) mod point;
pub(crate) mod policy;
pub(crate) mod retention;
pub(crate) mod schedule;
pub(crate) mod snapshot;
mod states;
pub(crate) mod token;
