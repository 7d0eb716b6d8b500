//! Which bytes of which points damaged cells hold.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures::TryStreamExt as _;

use crate::disk::{DiskReader, Part};
use crate::error::chain;
use crate::segment::Listed;
use crate::segment_id::{AnyGeneration, SegmentId};
use crate::{Point, Vault, VaultError};

use super::data::{Cells, DamagedCells};
use super::lost::{Found, Lost, all_of};

/// How often what is there is listed: of what was listed, all may be replaced when it is looked at.
const LOOKS: u32 = 4;

/// What of segments is damaged, and what there is besides.
struct Damage {
    /// By generation.
    cells: BTreeMap<SegmentId, DamagedCells>,
    segments: BTreeMap<AnyGeneration, Vec<SegmentId>>,
    listed: Listed,
}

impl Vault {
    /// Looks up every disk of every point whose deltas name a damaged segment, as a restore would: what another generation of the
    /// segment gives is not lost. `told` is what is known already.
    pub(super) async fn affected(
        &self,
        points: &[Point],
        damaged: BTreeMap<SegmentId, DamagedCells>,
        told: &[Found],
    ) -> Result<Vec<Found>, VaultError> {
        let mut found = Vec::new();
        let mut unneeded: BTreeSet<SegmentId> = damaged.keys().copied().collect();
        let mut segments: BTreeMap<AnyGeneration, Vec<SegmentId>> = BTreeMap::new();
        for id in damaged.keys() {
            segments.entry(id.any_generation()).or_default().push(*id);
        }
        let mut damage = Damage { cells: damaged, segments, listed: Listed::default() };
        let told: BTreeSet<(u64, &str, u64)> = told.iter().filter_map(up_to).collect();
        let points = if damage.cells.is_empty() { &[] } else { points };
        for point in points {
            for disk in &point.disks {
                if told.contains(&(point.seq, &*disk.name, disk.size_bytes)) {
                    continue;
                }
                let lost = match self.open_disk(point, &disk.name).await {
                    Ok(reader) => damage.of(self, reader).await,
                    Err(error) => Err(error),
                };
                match lost {
                    Ok((lost, needed)) => {
                        lost.tell(&mut found, (point, disk), |id| damage.cells[&id].reason.clone());
                        unneeded.retain(|id| !needed.contains(id));
                    }
                    // It read well when its structure was looked at.
                    Err(error) if error.is_damage() => found.push(all_of(point, disk, chain(&error))),
                    Err(error) => return Err(error),
                }
            }
        }
        // Listed anew: one that is gone was replaced, or collected with the points that needed it.
        damage.listed = Listed::default();
        for id in unneeded {
            if damage.listed.copies(self, id).await?.contains(&id) {
                found.push((None, damage.cells[&id].reason.clone()));
            }
        }
        Ok(found)
    }
}

impl Damage {
    /// What a disk loses, and by what damage.
    async fn of(
        &mut self,
        vault: &Vault,
        reader: DiskReader,
    ) -> Result<(Lost, BTreeSet<SegmentId>), VaultError> {
        let (mut lost, mut needed) = (Lost::default(), BTreeSet::new());
        if !reader.names(|id| self.segments.contains_key(&id.any_generation())) {
            return Ok((lost, needed));
        }
        let mut windows = pin!(reader.parts());
        while let Some(parts) = windows.try_next().await? {
            for part in parts {
                let Some(first) = self.hit(&part).next() else { continue };
                if !self.is_served(vault, &part).await? {
                    lost.add(first, &part.disk_blocks);
                    needed.extend(self.hit(&part));
                }
            }
        }
        Ok((lost, needed))
    }

    /// Of the cell of a part, the generations that are damaged.
    fn hit(&self, part: &Part) -> impl Iterator<Item = SegmentId> {
        let damaged = self.segments.get(&part.segment.any_generation()).into_iter().flatten();
        let (lowest, cell) = (part.segment.generation, part.cell);
        damaged.copied().filter(move |id| {
            id.generation >= lowest && self.cells.get(id).is_some_and(|damaged| damaged.has(cell))
        })
    }

    /// Whether there is a generation that has it and is not damaged.
    async fn is_served(&mut self, vault: &Vault, part: &Part) -> Result<bool, VaultError> {
        let damaged: Vec<SegmentId> = self.hit(part).collect();
        for _ in 0..LOOKS {
            let mut is_gone = false;
            for id in self.listed.copies(vault, part.segment).await? {
                if damaged.contains(&id) {
                    continue;
                }
                match vault.exact_segment(id).await.and_then(|segment| segment.holds(part.cell, part.blocks))
                {
                    Ok(true) => return Ok(true),
                    Err(VaultError::Missing { .. }) => is_gone = true,
                    Ok(false) => {}
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
            if !is_gone {
                break;
            }
            self.listed.forget(part.segment.any_generation());
        }
        Ok(false)
    }
}

/// The disk that a finding is about, and up to where it is lost from its beginning.
fn up_to((point, _): &Found) -> Option<(u64, &str, u64)> {
    let point = point.as_ref()?;
    match &*point.ranges {
        [range] if range.start == 0 => Some((point.seq, point.disk.as_deref()?, range.end)),
        _ => None,
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
