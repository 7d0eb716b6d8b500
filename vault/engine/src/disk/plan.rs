use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};

use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{PageRef, Place, Placed, SegmentRef, decode_extents};

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

/// By the backup that wrote a delta, the page of it that was read last: windows go upwards, and one page lies in hundreds of them where
/// little of a disk is data, or little of it changed.
pub(super) type LastPages = HashMap<u64, (PageRef, Arc<Vec<Placed>>)>;

/// Cells by segment and number, with the pieces that are wanted of each.
type Cells = BTreeMap<(SegmentId, u32), (SegmentRef, Vec<Piece>)>;

impl Inner {
    /// Plans the blocks `first..end`.
    pub(super) async fn plan(&self, first: u64, end: u64) -> Result<Plan, VaultError> {
        let mut zeros = Vec::new();
        let mut cells = Cells::new();
        for (block, (delta, place)) in (first..).zip(self.places(first, end).await?) {
            match place {
                Place::Zero => push_zero(&mut zeros, block),
                Place::Cell { segment, cell, cell_block } => {
                    let reference = self.named(delta, segment)?;
                    let key = (SegmentId::named(self.machine, reference), cell);
                    let (known, pieces) = cells.entry(key).or_insert_with(|| (*reference, Vec::new()));
                    if known.root != reference.root {
                        return Err(VaultError::mismatch("a delta", "two deltas disagree about a segment"));
                    }
                    push_piece(pieces, cell_block, block);
                }
            }
        }
        Ok(Plan { zeros, fetches: self.group(cells).await? })
    }

    /// Where the blocks `first..end` are, each with the delta that says so: the newest one that speaks of it. A block that none
    /// speaks of is damage, never zero.
    pub(super) async fn places(&self, first: u64, end: u64) -> Result<Vec<(usize, Place)>, VaultError> {
        let mut window: Vec<Option<(usize, Place)>> = vec![None; usize::try_from(end - first).unwrap_or(0)];
        for (index, (seq, root)) in self.deltas.iter().enumerate() {
            let start = root.extent_pages.partition_point(|page| page.end_block <= first);
            for page in root.extent_pages[start..].iter().take_while(|page| page.first_block < end) {
                let extents = self.page(*seq, page).await?;
                let end_of = |placed: &Placed| placed.extent.first_block + placed.extent.block_count;
                let start = extents.partition_point(|placed| end_of(placed) <= first);
                for placed in extents[start..].iter().take_while(|placed| placed.extent.first_block < end) {
                    lay(&mut window, first, index, placed);
                }
            }
        }
        let known = |(block, slot): (u64, Option<_>)| {
            slot.ok_or_else(|| {
                VaultError::mismatch("the stack of deltas", format!("no delta covers block {block}"))
            })
        };
        (first..).zip(window).map(known).collect()
    }

    /// A page of the delta of a backup.
    async fn page(&self, seq: u64, page: &PageRef) -> Result<Arc<Vec<Placed>>, VaultError> {
        let last = self.last_pages().get(&seq).filter(|(last, _)| last == page).cloned();
        if let Some((_, extents)) = last {
            return Ok(extents);
        }
        let bytes = self.vault.delta_page(self.machine, seq, page).await?;
        let extents = decode_extents(&bytes, page)
            .map_err(|source| VaultError::damaged(&format!("a page of the delta of backup {seq}"), source))?;
        let extents = Arc::new(extents);
        self.last_pages().insert(seq, (*page, Arc::clone(&extents)));
        Ok(extents)
    }

    fn last_pages(&self) -> MutexGuard<'_, LastPages> {
        self.last_pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment by its number in a delta.
    pub(super) fn named(&self, delta: usize, segment: u32) -> Result<&SegmentRef, VaultError> {
        self.deltas[delta]
            .1
            .segments
            .get(segment as usize)
            .ok_or_else(|| VaultError::mismatch("a delta", format!("it names no segment {segment}")))
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

fn lay(window: &mut [Option<(usize, Place)>], first: u64, delta: usize, placed: &Placed) {
    let end = first + window.len() as u64;
    let start = placed.extent.first_block;
    for block in start.max(first)..(start + placed.extent.block_count).min(end) {
        let place = placed.place.skip(block - start);
        if let Ok(slot) = usize::try_from(block - first) {
            window[slot] = Some((delta, place));
        }
    }
}

fn push_zero(zeros: &mut Vec<Extent>, block: u64) {
    match zeros.last_mut() {
        Some(last) if last.first_block + last.block_count == block => last.block_count += 1,
        _ => zeros.push(Extent { first_block: block, block_count: 1 }),
    }
}

fn push_piece(pieces: &mut Vec<Piece>, cell_block: u32, block: u64) {
    if let Some(last) = pieces.last_mut()
        && last.extent.first_block + last.extent.block_count == block
        && u64::from(last.cell_block) + last.extent.block_count == u64::from(cell_block)
    {
        last.extent.block_count += 1;
    } else {
        pieces.push(Piece { cell_block, extent: Extent { first_block: block, block_count: 1 } });
    }
}

#[cfg(test)]
mod tests;
