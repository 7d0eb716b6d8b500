//! The storage engine: vaults over an object store. No tonic, no SQL; deciding who may do what is the caller's.
//!
//! All objects are create-only. `points/<machine>/<seq>` is the one arbiter of what became of a backup: a point or an abort,
//! whichever was created first.

mod abort;
mod backup;
mod begin;
mod buffer;
mod collect;
mod commit;
mod delta;
mod disk;
mod enforce;
mod error;
mod event;
mod key_file;
mod keys;
mod layer;
mod map;
mod name;
mod object;
mod point;
mod probe;
mod received;
mod record;
mod reserve;
mod retention;
mod samples;
mod segment;
mod space;
mod staging;
mod standing;
mod store;
mod vault;
mod verify;
mod writer;

pub use abort::Backups;
pub use backup::{Backup, DiskBase, NewCell, Receipt};
pub use begin::{BeginBackup, Begun, DiskSpec};
pub use collect::{
    ClockTrust, CollectOptions, CollectionProgress, CollectionReport, CollectionRun, Compaction, PurgedPoint,
};
pub use commit::Prepared;
pub use disk::{DiskReader, Piece, StoredCell, Window};
pub use enforce::Enforced;
pub use error::{NotEnforced, VaultError};
pub use holdfast_vault_format::event::{Action, Event, LockMode};
pub use holdfast_vault_format::record::{Consistency, PointRef};
pub use holdfast_vault_format::{
    BLOCK_SIZE, BlockHasher, CellError, Codec, Extent, MAX_CELL_BYTES, cell_hash, decode_cell, encode_cell,
};
pub use key_file::KeyFile;
pub use keys::{Keys, MIN_PASSPHRASE, Passphrase, RecipientInfo, RecipientKind, Unlock};
pub use map::{MapBlocks, MapLayer, MapRun};
pub use point::{OpenBackup, Outcome, Point, PointDisk, PointStatus};
pub use retention::Retention;
pub use samples::{SampleStats, Samples};
pub use segment::SegmentId;
pub use standing::{COOLING_OFF, Deletion, Lock, PointState, Refusal, Standing};
pub use store::{
    Arbiter, ArbiterError, Claim, Problem, S3, S3Addressing, S3Credentials, S3Limits, S3Location,
    S3ObjectLock, S3Transport, Storage,
};
pub use vault::Vault;
pub use verify::{
    DamagedPoint, Finding, Verification, VerifyDepth, VerifyPace, VerifyProgress, VerifyReport, VerifyScope,
};

/// A place where the fault tests end the process; nothing in a build without the feature `failpoints`.
pub(crate) fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
    let _ = name;
}

/// Does what would keep the runtime's threads from other work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| VaultError::Worker { source })?
}
