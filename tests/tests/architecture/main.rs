//! The invariants of `ARCHITECTURE.md` that nothing else would notice: who depends on whom, where things are, what they are
//! called. Each failure says what to do. Reads the sources; builds and runs nothing.
#![allow(clippy::unwrap_used)]

mod crates;
mod layers;
mod names;
mod paths;
mod places;
mod source;
