//! The hashes of blocks that were received: they are read from the tables of the segments that hold the blocks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use holdfast_vault_format::delta::{HashRun, Place, Placed};
use holdfast_vault_format::segment::CellBlocks;

use crate::VaultError;
use crate::backup::Shared;

/// Memory that tables may take which the next reading is likely to need again.
const KEPT_BYTES: usize = 8 << 20;

/// Reads hashes of one backup; best asked in block order, since neighbours lie in the same segments.
pub(crate) struct ReceivedHashes {
    shared: Arc<Shared>,
    /// By index in the session's list of segments.
    kept: HashMap<u32, Arc<Table>>,
}

/// Hashes of a segment's blocks.
struct Table {
    /// Where the hashes of each cell start; one more entry for where they end.
    starts: Vec<usize>,
    hashes: Vec<u64>,
}

impl ReceivedHashes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, kept: HashMap::new() }
    }

    /// The hashes of these extents, in their order. One table at a time is read for all extents in its segment.
    pub(crate) async fn runs(&mut self, received: &[Placed]) -> Result<Vec<HashRun>, VaultError> {
        let mut runs: Vec<HashRun> =
            received.iter().map(|placed| HashRun { extent: placed.extent, hashes: Vec::new() }).collect();
        let mut wanted: BTreeMap<u32, Vec<(usize, u32, u32)>> = BTreeMap::new();
        for (index, placed) in received.iter().enumerate() {
            if let Place::Cell { segment, cell, cell_block } = placed.place {
                wanted.entry(segment).or_default().push((index, cell, cell_block));
            }
        }
        self.kept.retain(|slot, _| wanted.contains_key(slot));
        for (slot, cells) in wanted {
            let table = self.table(slot).await?;
            for (index, cell, cell_block) in cells {
                let blocks = usize::try_from(runs[index].extent.block_count).unwrap_or(usize::MAX);
                runs[index].hashes = table
                    .of(cell as usize, cell_block as usize, blocks)
                    .ok_or_else(|| {
                        let detail = format!("its table does not say what cell {cell} holds");
                        VaultError::mismatch("a segment of this backup", detail)
                    })?
                    .to_vec();
            }
        }
        Ok(runs)
    }

    async fn table(&mut self, slot: u32) -> Result<Arc<Table>, VaultError> {
        if let Some(table) = self.kept.get(&slot) {
            return Ok(Arc::clone(table));
        }
        let (id, root) = {
            let state = self.shared.state();
            if let Some(open) = state.writer.as_ref().filter(|open| open.slot == slot as usize) {
                return Ok(Arc::new(Table::new(open.writer.table())));
            }
            let entry = state.segments.get(slot as usize).ok_or(VaultError::Broken)?;
            (entry.id, entry.root)
        };
        // It may be on its way to the storage.
        self.shared.stored().await?;
        let vault = &self.shared.vault;
        let segment = vault.segment(id).await?;
        if root != Some(segment.root) {
            return Err(VaultError::mismatch(&segment.name, "its cells are not those that were received"));
        }
        let table = Arc::new(Table::new(&vault.segment_table(&segment).await?));
        let kept: usize = self.kept.values().map(|table| table.memory()).sum();
        if kept + table.memory() <= KEPT_BYTES {
            self.kept.insert(slot, Arc::clone(&table));
        }
        Ok(table)
    }
}

impl Table {
    fn new(cells: &[CellBlocks]) -> Self {
        let mut table = Self { starts: Vec::with_capacity(cells.len() + 1), hashes: Vec::new() };
        table.hashes.reserve_exact(cells.iter().map(|cell| cell.hashes.len()).sum());
        for cell in cells {
            table.starts.push(table.hashes.len());
            table.hashes.extend_from_slice(&cell.hashes);
        }
        table.starts.push(table.hashes.len());
        table
    }

    /// Of so many blocks of a cell from its block `first` on.
    fn of(&self, cell: usize, first: usize, blocks: usize) -> Option<&[u64]> {
        let cell = self.hashes.get(*self.starts.get(cell)?..*self.starts.get(cell + 1)?)?;
        cell.get(first..first.checked_add(blocks)?)
    }

    fn memory(&self) -> usize {
        (self.starts.len() + self.hashes.len()) * 8
    }
}
