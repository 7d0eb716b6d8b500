//! What agents say in a session: whatever is taken keeps the limits of the catalogue.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the controller's own files")]

mod domain;
mod session;

use holdfast_fuzz as _;

use holdfast_proto::v1::AgentMessage;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = AgentMessage::decode(data) else { return };
    session::read(message);
});
