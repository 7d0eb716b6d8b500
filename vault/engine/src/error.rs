use holdfast_vault_format::container::SealError;
use holdfast_vault_format::event::LockMode;
use holdfast_vault_format::{CellError, DecodeError};

use crate::problem::Problem;
use crate::segment_id::SegmentId;
use crate::standing::Refusal;

/// What went wrong in the vault. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the vault's storage failed: {operation} {object}")]
    Storage { operation: &'static str, object: String, source: object_store::Error },
    #[error("the vault has no space left: {operation} {object}")]
    NoSpace { operation: &'static str, object: String, source: object_store::Error },
    #[error("the vault's storage cannot be used: {problem} ({operation} {object})")]
    Unusable { problem: Problem, operation: &'static str, object: String, source: object_store::Error },
    #[error("the vault's storage {location} cannot be set up: {detail}")]
    S3Settings { location: String, detail: String },
    #[error("the endpoint {endpoint} is without TLS, which is not allowed")]
    PlainHttp { endpoint: String },
    #[error("the storage lets an object be created twice under one name: it ignores `If-None-Match: *`")]
    CreatesTwice,
    #[error("names in this vault are given out by its controllers' database, which is not asked here")]
    NoArbiter,
    #[error("whoever gives names out does not say who takes {object}")]
    Arbiter { object: String, source: ArbiterError },
    /// Whoever took the name may be at it, or was killed before.
    #[error("the name {object} is taken, and what it is for is not stored yet")]
    Unfinished { object: String },
    #[error("the storage does not enforce object lock: {reason}")]
    NotEnforced { reason: NotEnforced },
    #[error("{path} cannot be used as a vault")]
    Directory { path: String, source: std::io::Error },
    #[error("there is a vault already")]
    AlreadyExists,
    #[error("there is no vault here: vault.json is missing")]
    NotAVault,
    #[error(
        "the vault is not where it was: its file system is not mounted, another one is, or its disk gives nothing"
    )]
    Gone,
    #[error("there are other files where the vault is to be made")]
    NotEmpty,
    #[error("vault.json cannot be read: {detail}")]
    BadHeader { detail: String },
    #[error("the key file {path} cannot be {operation}")]
    KeyFile { operation: &'static str, path: String, source: std::io::Error },
    #[error("the key file {path} can be read by other users (mode {mode:03o})")]
    ExposedKeyFile { path: String, mode: u32 },
    #[error("{path} is not a key file: {detail}")]
    BadKeyFile { path: String, detail: String },
    #[error("{object} cannot be decrypted")]
    BadKeys { object: String, source: age::DecryptError },
    /// `recipients`: who can.
    #[error("this key does not open the vault; it opens for {recipients}")]
    WrongKey { recipients: String },
    #[error("{object} is damaged")]
    Damaged { object: String, source: DecodeError },
    #[error("{object} is missing")]
    Missing { object: String },
    /// The disk below gives an object's bytes no more.
    #[error("{object} cannot be read from its disk")]
    Unreadable { object: String, source: object_store::Error },
    #[error("{object} does not fit what refers to it: {detail}")]
    Mismatch { object: String, detail: String },
    #[error(
        "machine {machine}, point {point}, disk {disk:?}, bytes {first_byte} to {end_byte} cannot be restored"
    )]
    DamagedRange {
        machine: String,
        point: uuid::Uuid,
        disk: String,
        first_byte: u64,
        end_byte: u64,
        source: Box<VaultError>,
    },
    #[error("a cell that was sent is not usable")]
    BadCell { source: CellError },
    #[error("what was sent is not usable: {detail}")]
    BadInput { detail: String },
    #[error("blocks {first_block} to {end_block} of disk {disk:?} were never sent")]
    NotCovered { disk: String, first_block: u64, end_block: u64 },
    #[error("the point has no disk {disk:?}")]
    NoSuchDisk { disk: String },
    #[error("backup {seq} was given up before it was committed: {reason}")]
    Aborted { seq: u64, reason: String },
    #[error("{object}: this cannot be done")]
    Refused { object: String, source: Refusal },
    #[error("others began backups of machine {machine} at the same time")]
    Contended { machine: uuid::Uuid },
    #[error("the backup cannot go on: a segment was not written")]
    Broken,
    #[error("an object cannot be sealed")]
    Seal(#[source] SealError),
    #[error("a worker did not finish")]
    Worker { source: tokio::task::JoinError },
}

/// What somebody who gives names out says when that fails.
pub type ArbiterError = Box<dyn std::error::Error + Send + Sync>;

/// How a storage showed that it would not enforce a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEnforced {
    #[error("its bucket is not versioned")]
    Unversioned,
    #[error("it retains nothing in this bucket ({said})")]
    Unable { said: String },
    #[error("it does not let this key retain anything")]
    Denied,
    #[error("it took a retention and does not tell it, or this key may not read it")]
    Untold,
    #[error("it deleted a version that was under retention ({})", mode_name(*mode))]
    Deletes { mode: LockMode },
    #[error("it let a compliance retention be shortened")]
    Shortens,
    #[error("this key may delete no version at all, so it cannot be tried")]
    Untried,
    #[error("it answers too slowly to be tried")]
    Slow,
}

fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "governance",
        LockMode::Compliance => "compliance",
    }
}

impl VaultError {
    /// The vault does not hold what it should.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::BadKeys { .. }
                | Self::Missing { .. }
                | Self::Unreadable { .. }
                | Self::Mismatch { .. }
                | Self::DamagedRange { .. }
        )
    }

    /// The segment that is damaged, if it is one.
    #[must_use]
    pub fn damaged_segment(&self) -> Option<SegmentId> {
        match self {
            Self::DamagedRange { source, .. } => source.damaged_segment(),
            Self::Damaged { object, .. }
            | Self::Missing { object }
            | Self::Unreadable { object, .. }
            | Self::Mismatch { object, .. } => SegmentId::of_name(object),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// What the caller sent is wrong; nothing of it was stored.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(
            self,
            Self::BadCell { .. }
                | Self::Refused { .. }
                | Self::BadInput { .. }
                | Self::NotCovered { .. }
                | Self::NoSuchDisk { .. }
        )
    }

    /// The same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Storage { .. }
                | Self::Unusable { .. }
                | Self::Gone
                | Self::NoSpace { .. }
                | Self::Contended { .. }
                | Self::Arbiter { .. }
                | Self::Unfinished { .. }
                | Self::Broken
                | Self::Worker { .. }
        )
    }

    /// What to do about a storage that cannot be used, if that is what went wrong.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Unusable { problem, .. } => Some(problem.next_step()),
            Self::S3Settings { .. } => Some("correct it; docs/configuration.md has every key of [vault]"),
            Self::PlainHttp { .. } => Some(
                "use an https:// endpoint, with ca_file if its authority is private; in a network that you trust set allow_http",
            ),
            Self::CreatesTwice => Some(
                "use a storage that honours conditional writes: docs/operating.md lists those that were tried; or make a new \
                 vault with `init --names-in-database`: the controllers' database then says who takes a name",
            ),
            Self::NoArbiter => Some("if nothing else changes the vault's keys at this time, give --alone"),
            Self::NotEnforced {
                reason: NotEnforced::Untried | NotEnforced::Untold | NotEnforced::Denied,
            } => Some(
                "let this key read and set retentions, and delete versions under probe/: docs/operating.md has a policy to copy",
            ),
            Self::NotEnforced { reason: NotEnforced::Slow } => Some("try again"),
            Self::NotEnforced { .. } => Some(
                "use a bucket with Object Lock, which most servers enable only while it is made; or set object_lock = false in [vault]: \
                 locks are then kept by Holdfast alone",
            ),
            _ => None,
        }
    }

    pub(crate) fn storage(operation: &'static str, object: &str, source: object_store::Error) -> Self {
        let object = object.to_owned();
        if let Some(problem) = Problem::of(&source) {
            return Self::Unusable { problem, operation, object, source };
        }
        match source {
            object_store::Error::NotFound { .. } => Self::Missing { object },
            source if is_no_space(&source) => Self::NoSpace { operation, object, source },
            source => Self::Storage { operation, object, source },
        }
    }

    /// Why an object could not be read.
    pub(crate) fn unread(operation: &'static str, object: &str, source: object_store::Error) -> Self {
        // EIO, EBADMSG, EUCLEAN: what a disk or a file system with checksums says of what it lost.
        if io_error(&source).is_some_and(|io| matches!(io.raw_os_error(), Some(5 | 74 | 117))) {
            return Self::Unreadable { object: object.to_owned(), source };
        }
        Self::storage(operation, object, source)
    }

    pub(crate) fn damaged(object: &str, source: DecodeError) -> Self {
        Self::Damaged { object: object.to_owned(), source }
    }

    pub(crate) fn mismatch(object: &str, detail: impl Into<String>) -> Self {
        Self::Mismatch { object: object.to_owned(), detail: detail.into() }
    }
}

fn is_no_space(error: &object_store::Error) -> bool {
    if Problem::is_full(error) {
        return true;
    }
    io_error(error).is_some_and(|io| {
        matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    })
}

/// What the operating system said, if it said something.
fn io_error(error: &object_store::Error) -> Option<&std::io::Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        source = error.source();
    }
    None
}

/// The messages of an error and of all its causes.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_lost_something_is_damage_and_one_that_is_busy_is_not() {
        let read = |code| {
            let source = Box::new(std::io::Error::from_raw_os_error(code));
            VaultError::unread(
                "read",
                "points/1",
                object_store::Error::Generic { store: "directory", source },
            )
        };
        for lost in [5, 74, 117] {
            assert!(read(lost).is_damage() && !read(lost).is_retryable(), "{lost}");
            assert_eq!(read(lost).to_string(), "points/1 cannot be read from its disk");
        }
        // EAGAIN, EMFILE, ENOSPC
        for other in [11, 24, 28] {
            assert!(!read(other).is_damage() && read(other).is_retryable(), "{other}");
        }
    }
}
