//! The gRPC services: they authorise, decode, call, encode. Nothing is decided here.

pub(crate) mod agent;
pub(crate) mod caller;
pub(crate) mod job;
pub(crate) mod machine;
pub(crate) mod point;
pub(crate) mod policy;
pub(crate) mod status;
pub(crate) mod vault;
mod wire;
