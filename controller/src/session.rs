//! Serving the agents' control streams: Hello and its answer, reports, clones.

mod hello;
mod report;
mod run;

pub(crate) use run::{end_superseded, run};
