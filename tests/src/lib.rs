//! The harness of the cross-component tests: real programs, a real Postgres, real disks. `tests/run` builds the programs
//! and runs everything.
//!
//! A broken expectation panics, wherever it is: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod agent;
pub mod cli;
pub mod controller;
pub mod database;
pub mod fault;
pub mod image;
pub mod mounted;
pub mod postgres;
pub mod process;
pub mod program;
pub mod s3;
pub mod skip;
pub mod vault;
pub mod wait;
pub mod world;

pub use agent::Agent;
pub use cli::{Answer, Cli};
pub use controller::Controller;
pub use database::Database;
pub use image::Image;
pub use mounted::MountedDisks;
pub use postgres::Postgres;
pub use process::Process;
pub use skip::{is_root_or_skips, skip};
pub use world::World;
