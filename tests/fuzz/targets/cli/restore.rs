//! The part of `restore` that frames go through.

pub(crate) mod frame;
