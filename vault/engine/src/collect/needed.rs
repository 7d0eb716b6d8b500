//! Which blocks of which cells points need.

use std::collections::{HashMap, HashSet};
use std::pin::pin;

use futures::TryStreamExt as _;

use holdfast_vault_format::BLOCK_SIZE;
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::segment::{CellEntry, CellKind};

use crate::directory::Segment;
use crate::{Point, Vault, VaultError};

/// What takes a cell in a directory, and an object without cells, at most.
const ENTRY: u64 = 48;
const OBJECT: u64 = 1 << 10;

/// What is needed of a segment: by cell its blocks, or something for a part of a delta.
#[derive(Debug, Default)]
pub(super) struct Needed(Vec<Blocks>);

/// By backup and number, of one machine.
pub(super) type NeededSegments = HashMap<(u64, u32), Needed>;

impl Vault {
    /// What these points need of these segments, all of one machine. Blocks are looked up as a restore does, so what it would read is
    /// what is needed.
    pub(super) async fn blocks_needed(
        &self,
        points: &[Point],
        wanted: &HashSet<(u64, u32)>,
    ) -> Result<NeededSegments, VaultError> {
        let mut all = NeededSegments::new();
        let mut deltas = HashSet::new();
        for point in points {
            for disk in &point.disks {
                for delta in disk.stack.iter().filter(|delta| deltas.insert((delta.seq, delta.hash))) {
                    let root = self.delta_root(point.machine, delta).await?;
                    let pages = root.extent_pages.iter().chain(&root.hash_pages).map(|page| &page.place);
                    for place in delta.parts.iter().chain(pages) {
                        let key = (delta.seq, place.segment);
                        if wanted.contains(&key) {
                            all.entry(key).or_default().add(place.cell, Blocks(1));
                        }
                    }
                }
                let mut parts = pin!(self.open_disk(point, &disk.name).await?.parts());
                while let Some(window) = parts.try_next().await? {
                    for part in window.into_iter().filter(|part| part.segment.machine == point.machine) {
                        let key = (part.segment.seq, part.segment.number);
                        if wanted.contains(&key) {
                            all.entry(key).or_default().add(part.cell, part.blocks);
                        }
                    }
                }
            }
        }
        Ok(all)
    }
}

impl Needed {
    fn add(&mut self, cell: u32, blocks: Blocks) {
        let cell = cell as usize;
        if self.0.len() <= cell {
            self.0.resize(cell + 1, Blocks::default());
        }
        self.0[cell] = self.0[cell].with(blocks);
    }

    pub(super) fn of(&self, cell: usize) -> Blocks {
        self.0.get(cell).copied().unwrap_or_default()
    }

    /// The same without these blocks of a cell.
    #[cfg(test)]
    pub(super) fn without(&self, cell: usize, blocks: Blocks) -> Self {
        let mut needed = self.0.clone();
        needed[cell] = Blocks(needed[cell].0 & !blocks.0);
        Self(needed)
    }

    /// Whether a segment has all of it.
    pub(super) fn is_in(&self, segment: &Segment) -> bool {
        let mut cells = (0_u32..).zip(&self.0).filter(|(_, blocks)| !blocks.is_empty());
        cells.all(|(cell, blocks)| segment.holds(cell, *blocks).unwrap_or(false))
    }

    /// Bytes that it takes of a segment, about.
    pub(super) fn bytes_of(&self, segment: &Segment) -> u64 {
        let cells = segment.directory.cells.iter().enumerate();
        cells.map(|(cell, entry)| share(entry, self.of(cell)) + ENTRY).sum::<u64>() + OBJECT
    }
}

/// Of a cell's stored bytes, those of these blocks.
fn share(cell: &CellEntry, needed: Blocks) -> u64 {
    let stored = u64::from(cell.stored_len);
    let blocks = match cell.kind {
        CellKind::Data { .. } => cell.plain_len as usize / BLOCK_SIZE,
        CellKind::Kept { kept, .. } => kept.count(),
        CellKind::Meta => return if needed.is_empty() { 0 } else { stored },
        CellKind::Zero { .. } | CellKind::Known { .. } | CellKind::Gone => return 0,
    };
    stored * needed.count() as u64 / blocks.max(1) as u64
}
