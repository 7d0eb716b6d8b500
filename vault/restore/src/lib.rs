//! What a disk is restored to: a file that is nobody else's, has each block exactly once, and gets its name when all of
//! them are there and durable. Where the cells come from is the caller's business; nothing of them is believed here.
//! And what the programs that do it read alike on their command lines.

mod cell;
mod partial;
mod percentage;
mod seen;
mod target;

use std::io;
use std::path::PathBuf;

use holdfast_vault_format::CellError;

pub use cell::Cell;
pub use percentage::parse_percentage;
pub use target::{Existing, Target, check};

/// Why a disk is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("another restore is writing {}", path.display())]
    Busy { path: PathBuf },
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("what came is not the disk")]
    Content(#[from] ContentError),
}

/// What came is not the disk.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("a cell at byte {first_byte} does not decode")]
    Cell { first_byte: u64, source: CellError },
    #[error("a cell at byte {first_byte} does not match its hash")]
    Hash { first_byte: u64 },
    #[error("a piece outside its cell")]
    Piece,
    #[error("a block outside the disk")]
    Outside,
    #[error("a block came twice")]
    Twice,
    #[error("blocks are missing")]
    Missing,
}
