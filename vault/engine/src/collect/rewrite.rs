//! Writing what is needed of a segment to a new generation of it.

use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::kept::Kept;
use holdfast_vault_format::segment::CellKind;

use crate::directory::Segment;
use crate::object::{self, Created};
use crate::segment::StoredCells;
use crate::segment_id::SegmentId;
use crate::writer::SegmentWriter;
use crate::{Vault, VaultError, VerifyPace, blocking, crash_point};

use super::needed::Needed;

/// Of what is written: it is read rarely and kept long.
const LEVEL: i32 = 3;
/// So many names may have been taken for a segment that is to be replaced, by collectors that were killed.
const GENERATIONS_TRIED: usize = 4;

/// What is to be done about one segment.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) from: SegmentId,
    pub(super) generation: u32,
    /// All generations that are there and not condemned.
    pub(super) replaces: Vec<CondemnedSegment>,
    pub(super) needed: Arc<Needed>,
    /// Bytes, about.
    pub(super) gain: u64,
}

impl Vault {
    /// Writes what is needed of a segment and reads it back. Answers the bytes that it gains, or `None` if the segment went
    /// meanwhile.
    pub(super) async fn rewrite(&self, rewrite: Rewrite) -> Result<Option<u64>, VaultError> {
        let Rewrite { from, generation, needed, .. } = rewrite;
        for generation in (generation..).take(GENERATIONS_TRIED) {
            match self.rewrite_as(from, SegmentId { generation, ..from }, &needed).await {
                // Its collector is at it, or was killed: if it comes after all, a higher one makes it superfluous.
                Err(VaultError::Unfinished { object }) => {
                    warn!(object, "another collector has begun to compact a segment");
                }
                rewritten => return rewritten,
            }
        }
        Ok(None)
    }

    async fn rewrite_as(
        &self,
        from: SegmentId,
        id: SegmentId,
        needed: &Arc<Needed>,
    ) -> Result<Option<u64>, VaultError> {
        let (segment, bytes) = match self.left_of(from, id, needed).await {
            Ok(left) => left,
            Err(VaultError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Another collector may have been faster: what it wrote counts if it has what is needed.
        if object::create(self.storage(), &id.name(), bytes).await? == Created::Now {
            self.check_mounted().await?;
        }
        crash_point("engine::segment_replaced");
        self.read_back(id).await?;
        let replacement = self.read_segment(id).await?;
        if replacement.root != segment.root || !needed.is_in(&replacement) {
            let detail = "it does not have what is needed of the one that it replaces";
            return Err(VaultError::mismatch(&replacement.name, detail));
        }
        Ok(Some(segment.size.saturating_sub(replacement.size)))
    }

    /// A segment, and what is needed of it as one of that id.
    pub(super) async fn left_of(
        &self,
        from: SegmentId,
        id: SegmentId,
        needed: &Arc<Needed>,
    ) -> Result<(Arc<Segment>, Bytes), VaultError> {
        let segment = Arc::new(self.read_segment(from).await?);
        let mut writer = SegmentWriter::new(
            &self.inner.ring,
            id,
            segment.directory.snapshot,
            Vec::new(),
            &Arc::default(),
        )?;
        for cells in segment.chunks()? {
            let stored = StoredCells::read(self, Arc::clone(&segment), cells.start..=cells.end - 1).await?;
            let needed = Arc::clone(needed);
            let write = move || {
                for cell in cells {
                    leave(&stored, cell, &needed, &mut writer)?;
                }
                Ok::<_, VaultError>(writer)
            };
            writer = blocking(write).await?;
        }
        Ok((segment, writer.finish()?.bytes))
    }

    /// Reads all of a segment as its disk has it.
    pub(super) async fn read_back(&self, id: SegmentId) -> Result<(), VaultError> {
        self.inner.segments.forget(id);
        let read = self.read_segments(&[id], VerifyPace::Full, &mut |_, _, _| {}).await?;
        read.reason().map_or(Ok(()), |reason| Err(VaultError::mismatch(&id.name(), reason)))
    }
}

/// Writes what is needed of a cell, which is among these.
fn leave(
    stored: &StoredCells,
    number: u32,
    needed: &Needed,
    writer: &mut SegmentWriter,
) -> Result<(), VaultError> {
    let blocks = needed.of(number as usize);
    let mut entry = *stored.segment.entry(number)?;
    let data = match entry.kind {
        CellKind::Data { codec, .. } => {
            let data = stored.open(number)?;
            let plain = stored.plain(number, codec, &data)?;
            let (codec, data) = Kept::whole(&plain).encode(entry.plain_len, blocks, LEVEL);
            entry.kind = CellKind::Kept { codec, kept: blocks };
            data
        }
        CellKind::Kept { codec, kept } => {
            let data = stored.open(number)?;
            let left = stored.kept(number, codec, kept, &data)?;
            let (codec, data) = left.encode(entry.plain_len, blocks, LEVEL);
            entry.kind = CellKind::Kept { codec, kept: blocks };
            data
        }
        CellKind::Meta if !blocks.is_empty() => stored.open(number)?,
        CellKind::Meta | CellKind::Zero { .. } | CellKind::Known { .. } | CellKind::Gone => {
            (entry.kind, entry.plain_len, entry.hash) = (CellKind::Gone, 0, [0; 32]);
            Vec::new()
        }
    };
    writer.left(entry, &data)
}
