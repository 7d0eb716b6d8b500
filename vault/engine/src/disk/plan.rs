use std::collections::BTreeMap;

use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{Place, SegmentRef};

use crate::VaultError;
use crate::segment_id::SegmentId;

use super::{Inner, Piece, blocks_of_pieces};

/// Stored bytes that are fetched by one request, and so the size of one window.
const FETCH: u64 = 4 << 20;
/// Cells that are not wanted may lie between two that are, if it is not more than this.
const GAP: u64 = 128 << 10;

/// What has to be done to have a range of blocks.
pub(super) struct Plan {
    pub(super) zeros: Vec<Extent>,
    pub(super) fetches: Vec<Fetch>,
}

/// Cells of one segment that are fetched by one request.
pub(super) struct Fetch {
    pub(super) reference: SegmentRef,
    /// That, or what replaced it and holds all that is wanted.
    pub(super) segment: SegmentId,
    range: std::ops::Range<u64>,
    pub(super) cells: Vec<(u32, Vec<Piece>)>,
}

/// Cells by segment and number, with the pieces that are wanted of each.
type Cells = BTreeMap<(SegmentId, u32), (SegmentRef, Vec<Piece>)>;

impl Inner {
    /// Plans the blocks `first..end`.
    pub(super) async fn plan(&self, first: u64, end: u64) -> Result<Plan, VaultError> {
        let mut zeros = Vec::new();
        let mut cells = Cells::new();
        for run in self.places(first, end).await? {
            match run.place {
                Place::Zero => push_zero(&mut zeros, run.extent()),
                Place::Cell { segment, cell, cell_block } => {
                    let reference = self.named(run.delta, segment)?;
                    let key = (SegmentId::named(self.machine, reference), cell);
                    let (known, pieces) = cells.entry(key).or_insert_with(|| (*reference, Vec::new()));
                    if known.root != reference.root {
                        return Err(VaultError::mismatch("a delta", "two deltas disagree about a segment"));
                    }
                    push_piece(pieces, cell_block, run.extent());
                }
            }
        }
        Ok(Plan { zeros, fetches: self.group(cells).await? })
    }

    /// Joins cells that lie together into requests.
    async fn group(&self, cells: Cells) -> Result<Vec<Fetch>, VaultError> {
        let mut fetches: Vec<Fetch> = Vec::new();
        for ((_, cell), (reference, pieces)) in cells {
            let id = SegmentId::named(self.machine, &reference);
            let segment = self.vault.holder(id, cell, blocks_of_pieces(&pieces)).await?;
            let range = segment.range(cell)?;
            match fetches.last_mut() {
                Some(last)
                    if last.reference == reference
                        && last.segment == segment.id
                        && range.start <= last.range.end + GAP
                        && range.end - last.range.start <= FETCH =>
                {
                    last.range.end = range.end;
                    last.cells.push((cell, pieces));
                }
                _ => {
                    fetches.push(Fetch { reference, segment: segment.id, range, cells: vec![(cell, pieces)] })
                }
            }
        }
        Ok(fetches)
    }
}

fn push_zero(zeros: &mut Vec<Extent>, extent: Extent) {
    match zeros.last_mut() {
        Some(last) if last.first_block + last.block_count == extent.first_block => {
            last.block_count += extent.block_count
        }
        _ => zeros.push(extent),
    }
}

fn push_piece(pieces: &mut Vec<Piece>, cell_block: u32, extent: Extent) {
    if let Some(last) = pieces.last_mut()
        && last.extent.first_block + last.extent.block_count == extent.first_block
        && u64::from(last.cell_block) + last.extent.block_count == u64::from(cell_block)
    {
        last.extent.block_count += extent.block_count;
    } else {
        pieces.push(Piece { cell_block, extent });
    }
}

#[cfg(test)]
mod tests;
