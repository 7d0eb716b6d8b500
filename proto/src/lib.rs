//! The wire contract of Holdfast: the generated code of `holdfast/v1/*.proto`, the ids, and the one error
//! shape that every call and every job uses. It contains only what is served.

pub mod error;
pub mod ids;

/// Package `holdfast.v1`.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("holdfast.v1");
}

/// The encoded `FileDescriptorSet` of `holdfast.v1`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/holdfast.v1.fds"));

/// Largest message that any service accepts, in bytes: a cell frame of at most 3 MiB and its framing.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
