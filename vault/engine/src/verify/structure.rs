//! How points hang together: deltas, their pages, the directories of the segments that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt as _;

use uuid::Uuid;

use holdfast_vault_format::BLOCK_SIZE;
use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::{DeltaRoot, Place, Placed, decode_extents, decode_hashes};
use holdfast_vault_format::record::DeltaRef;
use holdfast_vault_format::segment::CellKind;

use crate::directory::Segment;
use crate::disk::Part;
use crate::error::chain;
use crate::segment::Listed;
use crate::segment_id::SegmentId;
use crate::{Point, PointDisk, Vault, VaultError};

use super::data::DamagedCells;
use super::lost::{Found, Lost, all_of};

/// How often a segment is looked for of which everything that was listed is gone.
const LOOKS: u32 = 4;

/// What points need, and what is wrong with it.
pub(super) struct Structure {
    /// Each generation of them that is there.
    pub(super) segments: BTreeSet<SegmentId>,
    /// Those whose directory cannot be read, and why.
    pub(super) damaged: BTreeMap<SegmentId, DamagedCells>,
    /// Without a point: what no restore needs.
    pub(super) findings: Vec<Found>,
    /// Segments of which a collection left a part.
    partial: BTreeSet<SegmentId>,
    /// By segment as deltas name it.
    copies: BTreeMap<SegmentId, Vec<SegmentId>>,
    listed: Listed,
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
            copies: BTreeMap::new(),
            listed: Listed::default(),
        };
        for point in points {
            for disk in &point.disks {
                for delta in &disk.stack {
                    let key = (delta.seq, delta.hash);
                    if let std::collections::btree_map::Entry::Vacant(entry) = deltas.entry(key) {
                        entry.insert(structure.look(vault, point.machine, delta).await?);
                    }
                }
                if let Some(reason) = structure.disk(vault, point, disk, &deltas).await? {
                    structure.findings.push(all_of(point, disk, reason));
                    continue;
                }
                match structure.lacking(vault, point, disk, &deltas).await {
                    Ok(lacking) => lacking.tell(&mut structure.findings, (point, disk), |id| {
                        format!("{} lacks blocks that the point needs", id.name())
                    }),
                    // It may have been purged since: whoever tells of it looks.
                    Err(error) if error.is_damage() => {
                        structure.findings.push(all_of(point, disk, chain(&error)));
                    }
                    Err(error) => return Err(error),
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
                    for id in segments {
                        self.segments.extend(self.copies.get(id).into_iter().flatten());
                    }
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
    ) -> Result<Lost, VaultError> {
        let mut lacking = Lost::default();
        let named = disk.stack.iter().filter_map(|delta| deltas.get(&(delta.seq, delta.hash)));
        let is_partial = |looked: &Looked| matches!(looked, Looked::Sound { segments, .. } if !self.partial.is_disjoint(segments));
        if !named.into_iter().any(is_partial) {
            return Ok(lacking);
        }
        let mut parts = pin!(vault.open_disk(point, &disk.name).await?.parts());
        while let Some(window) = parts.try_next().await? {
            // What damage takes is told as such.
            let is_undamaged = |part: &Part| !self.damaged_copies(part.segment);
            let partial = window.into_iter().filter(|part| self.partial.contains(&part.segment));
            for part in partial.filter(is_undamaged) {
                match vault.holder(part.segment, part.cell, part.blocks).await {
                    Ok(_) => {}
                    Err(error) if error.is_damage() => {
                        lacking.add(part.segment, &part.disk_blocks);
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
        for id in &segments {
            self.see(vault, *id, None).await?;
        }
        for named in &root.segments {
            let id = SegmentId::named(machine, named);
            segments.insert(id);
            self.see(vault, id, Some(named.root)).await?;
        }
        let mut cells = Cells { vault, machine, root: &root, structure: self, last: None };
        let (mut head, mut findings) = (0, Vec::new());
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
                Err(error) if error.is_damage() => findings.push((None, chain(&error))),
                Err(error) => return Err(error),
            }
        }
        self.findings.extend(findings);
        Ok(Looked::Sound { segments, head })
    }

    /// Reads the directories of a segment's generations, which have this root if a delta says so.
    async fn see(&mut self, vault: &Vault, id: SegmentId, root: Option<[u8; 32]>) -> Result<(), VaultError> {
        let mut seen = Vec::new();
        for _ in 0..LOOKS {
            let there = self.listed.copies(vault, id).await?;
            let is_none = there.is_empty();
            for copy in there {
                let damaged = match vault.exact_segment(copy).await {
                    Ok(segment) if root.is_none_or(|root| root == segment.root) => {
                        if segment.is_partial() {
                            self.partial.insert(id);
                        }
                        None
                    }
                    Ok(segment) => {
                        Some(format!("{} is not the one that the delta was made of", segment.name))
                    }
                    // Replaced, or collected, since it was listed.
                    Err(VaultError::Missing { .. }) => continue,
                    Err(error) if error.is_damage() => Some(chain(&error)),
                    Err(error) => return Err(error),
                };
                seen.push(copy);
                if let Some(reason) = damaged {
                    self.damaged.insert(copy, DamagedCells::all(reason));
                }
            }
            if is_none || !seen.is_empty() {
                break;
            }
            self.listed.forget(id.any_generation());
        }
        if seen.is_empty() {
            let missing = VaultError::Missing { object: id.name() };
            self.damaged.insert(id, DamagedCells::all(missing.to_string()));
            seen.push(id);
        }
        self.copies.insert(id, seen);
        Ok(())
    }

    fn damaged_copies(&self, id: SegmentId) -> bool {
        self.copies.get(&id).is_some_and(|copies| copies.iter().any(|copy| self.damaged.contains_key(copy)))
    }

    /// A generation of a segment whose directory is as it should be.
    fn sound_copy(&self, id: SegmentId) -> Option<SegmentId> {
        self.copies.get(&id)?.iter().find(|copy| !self.damaged.contains_key(copy)).copied()
    }
}

/// The cells that a delta refers to; one segment after the other, mostly.
struct Cells<'v> {
    vault: &'v Vault,
    machine: Uuid,
    root: &'v DeltaRoot,
    structure: &'v Structure,
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
                let Some(copy) = self.structure.sound_copy(id) else { return Ok(()) };
                let segment = match self.vault.exact_segment(copy).await {
                    Err(VaultError::Missing { .. }) => self.vault.segment(id).await?,
                    read => read?,
                };
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
