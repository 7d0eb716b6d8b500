//! What the targets share: a vault in memory with keys that are known, real objects in it, hostile ones, and a limit on
//! memory.
#![cfg(feature = "targets")]

pub mod hostile;
mod memory;
pub mod read;
pub mod sample;
pub mod vault;
