//! The gateway as agents and operators meet it: a real vault in a directory, a real server on the loopback, and a scripted
//! control plane.

#![allow(clippy::unwrap_used, reason = "what a test relies on")]

mod agent;
mod authority;
mod bed;
mod commit;
mod damage;
mod fencing;
mod frames;
mod image;
mod limits;
mod operator;
mod resolver;
mod restore;
mod resume;
mod scrub;
mod transfer;
mod unmounted;
mod verify;
