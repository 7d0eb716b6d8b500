//! The engine against a real directory.

mod corruption;
mod disk_full;
mod faults;
mod hostile;
mod resume;
mod round_trip;
mod support;
