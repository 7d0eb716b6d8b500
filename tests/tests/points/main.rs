//! What happens to points after they were made.
#![allow(clippy::unwrap_used)]

mod compaction;
mod deletion;
mod recovery;
mod removal;
mod verification;
