//! The storage engine: vaults over an object store. No tonic, no SQL; deciding who may do what is the caller's.
//!
//! All objects are create-only. `points/<machine>/<seq>` is the one arbiter of what became of a backup: a point or an abort,
//! whichever was created first.

mod backup;
mod became;
mod begin;
mod blocking;
mod buffer;
mod clock;
mod collect;
mod commit;
mod conclude;
mod condemned;
mod crash_point;
mod delta;
mod directory;
mod disk;
mod enforce;
mod error;
mod event;
mod header;
mod key_file;
mod keys;
mod layer;
mod learn;
mod map;
mod name;
mod object;
mod point;
mod probe;
mod problem;
mod received;
mod record;
mod reserve;
mod retention;
mod samples;
mod segment;
mod segment_id;
mod settled;
mod space;
mod staging;
mod standing;
mod store;
mod vault;
mod verify;
mod writer;

pub use backup::{Backup, BeginBackup, DiskBase, DiskSpec, NewCell, Receipt};
pub use begin::Begun;
pub(crate) use blocking::blocking;
pub use clock::ClockTrust;
pub use collect::{
    CollectOptions, CollectionProgress, CollectionReport, CollectionRun, Compaction, PurgedPoint,
};
pub use commit::Prepared;
pub use conclude::Backups;
pub(crate) use crash_point::crash_point;
pub use disk::{DiskReader, Piece, StoredCell, Window};
pub use enforce::Enforced;
pub use error::{ArbiterError, NotEnforced, VaultError, chain};
pub use holdfast_vault_format::event::{Action, Event, LockMode};
pub use holdfast_vault_format::record::{Consistency, PointRef};
pub use holdfast_vault_format::{
    BLOCK_SIZE, BlockHasher, CellError, Codec, Extent, MAX_CELL_BYTES, cell_hash, decode_cell, encode_cell,
};
pub use key_file::KeyFile;
pub use keys::{Keys, MIN_PASSPHRASE, Passphrase, RecipientInfo, RecipientKind, Unlock};
pub use map::{MapBlocks, MapLayer, MapRun};
pub use point::{OpenBackup, Outcome, Point, PointDisk, PointStatus};
pub use problem::Problem;
pub use retention::Retention;
pub use samples::{SampleStats, Samples};
pub use segment_id::SegmentId;
pub use standing::{COOLING_OFF, Deletion, Lock, PointState, Refusal, Standing};
pub use store::{
    Arbiter, Claim, S3, S3Addressing, S3Credentials, S3Limits, S3Location, S3ObjectLock, S3Transport, Storage,
};
pub use vault::Vault;
pub use verify::{
    DamagedPoint, Finding, Verification, VerifyDepth, VerifyPace, VerifyProgress, VerifyReport, VerifyScope,
};
