//! A controller and a gateway for the tests: real TLS and gRPC on a real port, scripted behind it.

pub(crate) mod agent;
pub(crate) mod controller;
pub(crate) mod gateway;
pub(crate) mod hook_dir;
pub(crate) mod loop_disk;
pub(crate) mod pki;
pub(crate) mod skip;
