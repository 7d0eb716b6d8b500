//! Reading segments.

mod cells;
mod copies;
mod listed;

use holdfast_vault_format::DecodeError;
use holdfast_vault_format::container::{FOOTER_LEN, HEADER_LEN, Kind, Opener};
use holdfast_vault_format::segment::CellBlocks;

use crate::{Vault, VaultError, object};

use crate::directory::Segment;
use crate::segment_id::SegmentId;
pub(crate) use cells::StoredCells;
pub(crate) use copies::Copies;
pub(crate) use listed::Listed;

/// Read with the footer in one request; most directories fit.
const TAIL: u64 = 64 << 10;

impl Vault {
    /// The generations of a segment that are there, from this one on, ascending.
    pub(crate) async fn generations(&self, id: SegmentId) -> Result<Vec<SegmentId>, VaultError> {
        Listed::default().copies(self, id).await
    }

    /// Reads the directory of exactly this segment.
    pub(crate) async fn read_segment(&self, id: SegmentId) -> Result<Segment, VaultError> {
        let name = id.name();
        let damaged = |source| VaultError::damaged(&name, source);
        let (tail, size) = object::read_tail(self.storage(), &name, TAIL).await?;
        if size < (HEADER_LEN + FOOTER_LEN) as u64 || tail.len() < FOOTER_LEN {
            return Err(damaged(DecodeError::Truncated { what: "the segment" }));
        }
        // A small segment has come whole.
        let header = if tail.len() as u64 == size {
            tail.slice(..HEADER_LEN)
        } else {
            object::read_range(self.storage(), &name, 0..HEADER_LEN as u64).await?
        };
        let opener = Opener::new(&self.inner.ring, &name, &header).map_err(damaged)?;
        if opener.kind != Kind::Segment {
            return Err(VaultError::mismatch(&name, "it is of another kind"));
        }
        let layout = opener.footer(&tail[tail.len() - FOOTER_LEN..], size).map_err(damaged)?;
        let tail_at = size - tail.len() as u64;
        let body_end = layout.body_at + u64::from(layout.body_len);
        let body = if layout.body_at >= tail_at {
            let offset = |at: u64| usize::try_from(at - tail_at).unwrap_or(usize::MAX);
            tail.slice(offset(layout.body_at)..offset(body_end))
        } else {
            object::read_range(self.storage(), &name, layout.body_at..body_end).await?
        };
        Segment::open(id, size, opener, &layout, body.to_vec()).map_err(damaged)
    }

    /// Which blocks the cells of a segment hold.
    pub(crate) async fn segment_table(&self, segment: &Segment) -> Result<Vec<CellBlocks>, VaultError> {
        let stored = object::read_range(self.storage(), &segment.name, segment.table_range()).await?;
        segment.open_table(stored.to_vec())
    }
}
