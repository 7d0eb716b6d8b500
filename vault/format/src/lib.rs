//! The vault's format, pure: no I/O, no clock, no tokio. What the bytes mean is written down in `vault/FORMAT.md`.
//!
//! Everything that is decoded here is hostile: lengths are checked before anything is allocated.

pub mod block;
pub mod bytes;
pub mod cell;
pub mod collection;
pub mod container;
pub mod delta;
pub mod event;
pub mod kept;
pub mod keys;
pub mod recipient;
pub mod record;
pub mod segment;

pub use block::{BLOCK_SIZE, BlockHasher, Extent, MAX_DISK_BYTES, is_zero};
pub use bytes::DecodeError;
pub use cell::{
    CellError, Codec, MAX_CELL_BLOCKS, MAX_CELL_BYTES, cell_hash, decode_cell, decode_cell_in, encode_cell,
    encode_cell_into,
};
