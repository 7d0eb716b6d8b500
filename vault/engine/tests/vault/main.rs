//! The engine against a real directory, and against S3 over the wire.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod arbiter;
mod begin;
mod collect;
mod collect_crash;
mod collect_races;
mod commit;
mod compact;
mod corruption;
mod cuts;
mod deduplication;
mod disk_full;
mod faults;
mod golden;
mod gone;
mod heal;
mod hostile;
mod keys;
mod killed;
mod lives;
mod merge;
mod no_space;
mod power_cut;
mod requests;
mod resume;
mod round_trip;
mod s3;
mod s3_connection;
mod s3_failover;
mod s3_object_lock;
mod s3_probe;
mod staging;
mod support;
mod verify;
mod windows;
mod writes;
