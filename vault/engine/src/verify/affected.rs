//! Which bytes of which points damaged cells hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use holdfast_vault_format::BLOCK_SIZE;

use crate::segment::SegmentId;
use crate::{Point, Vault, VaultError};

use super::DamagedPoint;
use super::data::{Cells, DamagedCells};

/// Ranges that are told for a disk; the last one reaches to the end of the rest.
const MAX_RANGES: usize = 1000;

type Found = (Option<DamagedPoint>, String);

impl Vault {
    /// Looks up every disk of every point whose deltas name a damaged segment, as a restore would.
    pub(super) async fn affected(
        &self,
        points: &[Point],
        damaged: BTreeMap<SegmentId, DamagedCells>,
    ) -> Result<Vec<Found>, VaultError> {
        let mut found = Vec::new();
        let mut unneeded: BTreeSet<SegmentId> = damaged.keys().copied().collect();
        for point in points.iter().filter(|_| !damaged.is_empty()) {
            for disk in &point.disks {
                let reader = match self.open_disk(point, &disk.name).await {
                    Ok(reader) => reader,
                    // Told already, as damage of the structure.
                    Err(error) if error.is_damage() => continue,
                    Err(error) => return Err(error),
                };
                if !reader.names(|id| damaged.contains_key(&id)) {
                    continue;
                }
                let wanted = |id, cell| damaged.get(&id).is_some_and(|damaged| damaged.has(cell));
                let blocks = match reader.blocks_in(wanted).await {
                    Ok(blocks) => blocks,
                    Err(error) if error.is_damage() => continue,
                    Err(error) => return Err(error),
                };
                for (id, ranges) in blocks {
                    unneeded.remove(&id);
                    let ranges = bytes(ranges, disk.size_bytes);
                    let point = DamagedPoint {
                        seq: point.seq,
                        id: Some(point.id),
                        disk: Some(disk.name.clone()),
                        ranges,
                    };
                    found.push((Some(point), damaged[&id].reason.clone()));
                }
            }
        }
        for id in unneeded {
            // One that is gone was collected with the points that needed it.
            if !self.generations(id).await.is_ok_and(|there| there.is_empty()) {
                found.push((None, damaged[&id].reason.clone()));
            }
        }
        Ok(found)
    }
}

impl DamagedCells {
    fn has(&self, cell: u32) -> bool {
        match &self.cells {
            Cells::All => true,
            Cells::Some(cells) => cells.contains(&cell),
        }
    }
}

/// Joins blocks to ranges of bytes.
pub(super) fn bytes(mut blocks: Vec<Range<u64>>, size_bytes: u64) -> Vec<Range<u64>> {
    blocks.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in blocks {
        let start = range.start * BLOCK_SIZE as u64;
        let end = (range.end * BLOCK_SIZE as u64).min(size_bytes);
        match joined.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => joined.push(start..end),
        }
    }
    if let (true, Some(end)) = (joined.len() > MAX_RANGES, joined.last().map(|range| range.end)) {
        joined.truncate(MAX_RANGES);
        if let Some(last) = joined.last_mut() {
            last.end = end;
        }
    }
    joined
}
