//! What was decided about a point after it was made: the bodies of `points/<machine>/<seq>.<number>`.

use uuid::Uuid;

use crate::bytes::{DecodeError, Reader, Writer};
use crate::record::{Signer, verify_encoded};

/// Bytes of the name of whoever decided.
pub const MAX_ACTOR: usize = 256;

/// One decision. A point's events are numbered from 1; each name is created once, so two who decide at the same time decide
/// one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub machine: Uuid,
    pub seq: u64,
    pub number: u32,
    /// Microseconds since 1970, UTC, by the clock of whoever decided.
    pub at: i64,
    /// The newest collection at that time; 0 before the first.
    pub epoch: u64,
    pub actor: String,
    pub action: Action,
}

/// What an event does to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It may be taken back until a collection finds so many seconds of the vault's time over.
    Delete {
        window_seconds: u64,
    },
    Undelete,
    /// It cannot be deleted before this instant, in microseconds since 1970, UTC.
    Lock {
        mode: LockMode,
        until: i64,
    },
    Unlock,
    /// From here on nothing is kept for it, for ever.
    Purge,
}

/// Who may take a lock back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockMode {
    /// Whoever may delete.
    Governance,
    /// Nobody, once its cooling-off period is over.
    Compliance,
}

impl Event {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uuid(self.machine);
        out.u64(self.seq);
        out.u32(self.number);
        out.i64(self.at);
        out.u64(self.epoch);
        out.string(&self.actor[..self.actor.floor_char_boundary(MAX_ACTOR)]);
        match self.action {
            Action::Delete { window_seconds } => {
                out.u8(1);
                out.u64(window_seconds);
            }
            Action::Undelete => out.u8(2),
            Action::Lock { mode, until } => {
                out.u8(3);
                out.u8(match mode {
                    LockMode::Governance => 1,
                    LockMode::Compliance => 2,
                });
                out.i64(until);
            }
            Action::Unlock => out.u8(4),
            Action::Purge => out.u8(5),
        }
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (machine, seq) = (reader.uuid("the machine")?, reader.u64("the sequence number")?);
        let number = reader.u32("the event's number")?;
        let (at, epoch) = (reader.i64("the time")?, reader.u64("the epoch")?);
        let actor = reader.string(MAX_ACTOR, "the actor")?;
        let action = match reader.u8("the action")? {
            1 => Action::Delete { window_seconds: reader.u64("the window")? },
            2 => Action::Undelete,
            3 => {
                let mode = match reader.u8("the lock's mode")? {
                    1 => LockMode::Governance,
                    2 => LockMode::Compliance,
                    _ => return Err(DecodeError::OutOfRange { what: "the lock's mode" }),
                };
                Action::Lock { mode, until: reader.i64("the lock's end")? }
            }
            4 => Action::Unlock,
            5 => Action::Purge,
            _ => return Err(DecodeError::OutOfRange { what: "the action" }),
        };
        reader.finish()?;
        Ok(Self { machine, seq, number, at, epoch, actor, action })
    }

    /// The body of its object.
    #[must_use]
    pub fn sign(&self, signer: &Signer) -> Vec<u8> {
        signer.sign_encoded(self.encode())
    }

    /// Checks the signature of a body and reads it.
    pub fn verify(body: &[u8], public_key: &[u8; 32]) -> Result<Self, DecodeError> {
        Self::decode(verify_encoded(body, public_key)?)
    }
}
