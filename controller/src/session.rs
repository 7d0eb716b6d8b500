//! Serving the agents' control streams: Hello and its answer, reports, clones.

mod hello;
mod report;
mod run;
mod wire;

pub(crate) use run::{end_over, run};
