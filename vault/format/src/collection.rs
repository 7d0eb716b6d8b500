//! The bodies of `gc/` objects.

use uuid::Uuid;

use crate::bytes::{DecodeError, Reader, Writer};

/// That a garbage collection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    pub epoch: u64,
    /// Microseconds since 1970, UTC, by the clock of whoever collects.
    pub at: i64,
    /// The vault's time, of the same unit: it never goes back, and leaps only where an operator said so.
    pub vault_time: i64,
}

/// Segments that nothing needs, and that nothing may refer to again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condemned {
    /// One more than the largest before: whoever knows a number knows all up to it.
    pub number: u64,
    /// Ascending.
    pub segments: Vec<CondemnedSegment>,
}

/// A segment by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CondemnedSegment {
    pub machine: Uuid,
    pub seq: u64,
    pub number: u32,
    pub generation: u32,
}

impl Collection {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u64(self.epoch);
        out.i64(self.at);
        out.i64(self.vault_time);
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let epoch = reader.u64("the epoch")?;
        let (at, vault_time) = (reader.i64("the time")?, reader.i64("the vault's time")?);
        reader.finish()?;
        Ok(Self { epoch, at, vault_time })
    }
}

impl Condemned {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u64(self.number);
        out.count(self.segments.len());
        for segment in &self.segments {
            out.uuid(segment.machine);
            out.u64(segment.seq);
            out.u32(segment.number);
            out.u32(segment.generation);
        }
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let number = reader.u64("the number")?;
        let count = reader.count(32, "the segments")?;
        let mut segments: Vec<CondemnedSegment> = Vec::with_capacity(count);
        for _ in 0..count {
            let segment = CondemnedSegment {
                machine: reader.uuid("a machine")?,
                seq: reader.u64("a backup")?,
                number: reader.u32("a segment")?,
                generation: reader.u32("a generation")?,
            };
            if segments.last().is_some_and(|last| *last >= segment) {
                return Err(DecodeError::OutOfRange { what: "the order of segments" });
            }
            segments.push(segment);
        }
        reader.finish()?;
        Ok(Self { number, segments })
    }
}
