//! The part of `policy` that reads files.

pub(crate) mod file;
