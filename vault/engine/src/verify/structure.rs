//! How points hang together: deltas, their pages, the directories of the segments that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt as _;

use uuid::Uuid;

use holdfast_vault_format::BLOCK_SIZE;
use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::{DeltaRoot, Place, Placed, decode_extents, decode_hashes};
use holdfast_vault_format::record::DeltaRef;
use holdfast_vault_format::segment::CellKind;

use crate::error::chain;
use crate::segment::{Segment, SegmentId};
use crate::{Point, PointDisk, Vault, VaultError};

use super::DamagedPoint;
use super::affected::bytes;
use super::data::DamagedCells;

/// What points need, and what is wrong with it.
pub(super) struct Structure {
    pub(super) segments: BTreeSet<SegmentId>,
    /// Segments whose directory cannot be read, and why.
    pub(super) damaged: BTreeMap<SegmentId, DamagedCells>,
    /// Without a point: what no restore needs.
    pub(super) findings: Vec<(Option<DamagedPoint>, String)>,
    /// Segments of which a collection left a part.
    partial: BTreeSet<SegmentId>,
}

/// A delta that was looked at; many points share it.
enum Looked {
    Sound {
        segments: BTreeSet<SegmentId>,
        /// It speaks of every block before this one.
        head: u64,
    },
    Damaged(String),
}

impl Structure {
    /// Reads each delta of these points once. All are of one machine.
    pub(super) async fn read(vault: &Vault, points: &[Point]) -> Result<Self, VaultError> {
        let mut deltas: BTreeMap<(u64, [u8; 32]), Looked> = BTreeMap::new();
        let mut structure = Self {
            segments: BTreeSet::new(),
            damaged: BTreeMap::new(),
            findings: Vec::new(),
            partial: BTreeSet::new(),
        };
        for point in points {
            for disk in &point.disks {
                for delta in &disk.stack {
                    let key = (delta.seq, delta.hash);
                    if let std::collections::btree_map::Entry::Vacant(entry) = deltas.entry(key) {
                        entry.insert(structure.look(vault, point.machine, delta).await?);
                    }
                }
                let damaged = |ranges| DamagedPoint {
                    seq: point.seq,
                    id: Some(point.id),
                    disk: Some(disk.name.clone()),
                    ranges,
                };
                if let Some(reason) = structure.disk(vault, point, disk, &deltas).await? {
                    let all = std::iter::once(0..disk.size_bytes).collect();
                    structure.findings.push((Some(damaged(all)), reason));
                    continue;
                }
                let lacking = match structure.lacking(vault, point, disk, &deltas).await {
                    Ok(lacking) => lacking,
                    // It may have been purged since: whoever tells of it looks.
                    Err(error) if error.is_damage() => {
                        let all = std::iter::once(0..disk.size_bytes).collect();
                        structure.findings.push((Some(damaged(all)), chain(&error)));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for (id, ranges) in lacking {
                    let reason = format!("{} lacks blocks that the point needs", id.name());
                    let ranges = bytes(ranges, disk.size_bytes);
                    structure.findings.push((Some(damaged(ranges)), reason));
                }
            }
        }
        Ok(structure)
    }

    /// What is wrong with a disk as a whole.
    async fn disk(
        &mut self,
        vault: &Vault,
        point: &Point,
        disk: &PointDisk,
        deltas: &BTreeMap<(u64, [u8; 32]), Looked>,
    ) -> Result<Option<String>, VaultError> {
        let mut covered = 0;
        for delta in &disk.stack {
            match deltas.get(&(delta.seq, delta.hash)) {
                Some(Looked::Sound { segments, head }) => {
                    self.segments.extend(segments);
                    covered = covered.max(*head);
                }
                Some(Looked::Damaged(reason)) => return Ok(Some(reason.clone())),
                None => {}
            }
        }
        // What one delta alone does not cover is looked up as a restore would: the disk grew.
        if covered >= blocks_of(disk.size_bytes) {
            return Ok(None);
        }
        let looked = match vault.open_disk(point, &disk.name).await {
            Ok(reader) => reader.check_coverage(covered).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(()) => Ok(None),
            Err(error) if error.is_damage() => Ok(Some(chain(&error))),
            Err(error) => Err(error),
        }
    }
}

impl Structure {
    /// The blocks of a disk that are not among what a collection left of their cells.
    async fn lacking(
        &self,
        vault: &Vault,
        point: &Point,
        disk: &PointDisk,
        deltas: &BTreeMap<(u64, [u8; 32]), Looked>,
    ) -> Result<BTreeMap<SegmentId, Vec<Range<u64>>>, VaultError> {
        let mut lacking: BTreeMap<SegmentId, Vec<Range<u64>>> = BTreeMap::new();
        let named = disk.stack.iter().filter_map(|delta| deltas.get(&(delta.seq, delta.hash)));
        let is_partial = |looked: &Looked| matches!(looked, Looked::Sound { segments, .. } if !self.partial.is_disjoint(segments));
        if !named.into_iter().any(is_partial) {
            return Ok(lacking);
        }
        let mut parts = pin!(vault.open_disk(point, &disk.name).await?.parts());
        while let Some(window) = parts.try_next().await? {
            for part in window.into_iter().filter(|part| self.partial.contains(&part.segment)) {
                match vault.holder(part.segment, part.cell, part.blocks).await {
                    Ok(_) => {}
                    Err(error) if error.is_damage() => {
                        lacking.entry(part.segment).or_default().push(part.disk_blocks);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(lacking)
    }

    async fn look(&mut self, vault: &Vault, machine: Uuid, delta: &DeltaRef) -> Result<Looked, VaultError> {
        match self.sound(vault, machine, delta).await {
            Ok(sound) => Ok(sound),
            Err(error) if error.is_damage() => Ok(Looked::Damaged(chain(&error))),
            Err(error) => Err(error),
        }
    }

    async fn sound(&mut self, vault: &Vault, machine: Uuid, delta: &DeltaRef) -> Result<Looked, VaultError> {
        let damaged =
            |source| VaultError::damaged(&format!("a page of the delta of backup {}", delta.seq), source);
        let root = vault.delta_root(machine, delta).await?;
        let own = delta.parts.iter().map(|part| part.segment);
        let pages = root.extent_pages.iter().chain(&root.hash_pages).map(|page| page.place.segment);
        let mut segments: BTreeSet<SegmentId> = own
            .chain(pages)
            .map(|number| SegmentId { machine, seq: delta.seq, number, generation: 0 })
            .collect();
        for named in &root.segments {
            let id = SegmentId::named(machine, named);
            segments.insert(id);
            match vault.segment(id).await {
                Ok(segment) if segment.root == named.root => {
                    if segment.is_partial() {
                        self.partial.insert(id);
                    }
                }
                Ok(segment) => {
                    let reason = format!("{} is not the one that the delta was made of", segment.name);
                    self.damaged.insert(id, DamagedCells::all(reason));
                }
                Err(error) if error.is_damage() => {
                    self.damaged.insert(id, DamagedCells::all(chain(&error)));
                }
                Err(error) => return Err(error),
            }
        }
        let mut cells = Cells { vault, machine, root: &root, damaged: &self.damaged, last: None };
        let mut head = 0;
        for page in &root.extent_pages {
            let bytes = vault.delta_page(machine, delta.seq, page).await?;
            for placed in decode_extents(&bytes, page).map_err(damaged)? {
                cells.check(&placed).await?;
                if placed.extent.first_block <= head {
                    head = head.max(placed.extent.first_block + placed.extent.block_count);
                }
            }
        }
        for page in &root.hash_pages {
            let bytes = vault.delta_page(machine, delta.seq, page).await;
            match bytes.and_then(|bytes| decode_hashes(&bytes, page).map_err(damaged)) {
                Ok(_) => {}
                // Only the next backup compares with it, and sends more where it cannot.
                Err(error) if error.is_damage() => self.findings.push((None, chain(&error))),
                Err(error) => return Err(error),
            }
        }
        Ok(Looked::Sound { segments, head })
    }
}

/// The cells that a delta refers to; one segment after the other, mostly.
struct Cells<'v> {
    vault: &'v Vault,
    machine: Uuid,
    root: &'v DeltaRoot,
    damaged: &'v BTreeMap<SegmentId, DamagedCells>,
    last: Option<(u32, Arc<Segment>)>,
}

impl Cells<'_> {
    async fn check(&mut self, placed: &Placed) -> Result<(), VaultError> {
        let Place::Cell { segment: index, cell, cell_block } = placed.place else { return Ok(()) };
        let named = self
            .root
            .segments
            .get(index as usize)
            .ok_or_else(|| VaultError::mismatch("a delta", format!("it names no segment {index}")))?;
        let segment = match &self.last {
            Some((last, segment)) if *last == index => segment,
            _ => {
                let id = SegmentId::named(self.machine, named);
                if self.damaged.contains_key(&id) {
                    return Ok(());
                }
                let segment = self.vault.segment(id).await?;
                &self.last.insert((index, segment)).1
            }
        };
        let entry = segment.entry(cell)?;
        let blocks = u64::from(entry.plain_len) / BLOCK_SIZE as u64;
        let fits = u64::from(cell_block) + placed.extent.block_count <= blocks;
        if matches!(entry.kind, CellKind::Data { .. } | CellKind::Kept { .. }) && fits {
            return Ok(());
        }
        Err(VaultError::mismatch(&segment.name, format!("cell {cell} does not hold what its delta says")))
    }
}
