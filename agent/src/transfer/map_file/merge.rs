//! All records of a map as one: for each block the newest one that speaks of it.

use super::record::RecordReader;
use crate::transfer::map_run::{MapRun, RunError};

/// Reads a map in block order. Holds one chunk per record, whatever the size of the disk.
#[derive(Debug)]
pub(in crate::transfer) struct MapReader {
    /// Newest first.
    layers: Vec<Layer>,
    next_block: u64,
    block_count: u64,
}

#[derive(Debug)]
struct Layer {
    record: RecordReader,
    /// What of the last run is not passed yet; `None` before the first and after the last one.
    run: Option<MapRun>,
    ended: bool,
}

impl MapReader {
    /// `records` are oldest first.
    pub(super) fn new(block_count: u64, records: Vec<RecordReader>) -> Self {
        let layers =
            records.into_iter().rev().map(|record| Layer { record, run: None, ended: false }).collect();
        Self { layers, next_block: 0, block_count }
    }

    /// The next blocks, or `None` after the last one.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if a byte is wrong or missing, or a block is in no record.
    pub(in crate::transfer) fn next_run(&mut self) -> Result<Option<MapRun>, RunError> {
        let first = self.next_block;
        let mut end = self.block_count;
        if first == end {
            return Ok(None);
        }
        for layer in &mut self.layers {
            let Some(run) = layer.run_from(first)? else { continue };
            if run.first_block <= first {
                self.next_block = end.min(run.end());
                return Ok(Some(run.part(first, self.next_block)));
            }
            // An older layer counts up to where this one speaks again.
            end = end.min(run.first_block);
        }
        Err(RunError::Damaged)
    }
}

impl Layer {
    /// The first run that ends behind this block.
    fn run_from(&mut self, block: u64) -> Result<Option<&MapRun>, RunError> {
        while !self.ended && self.run.as_ref().is_none_or(|run| run.end() <= block) {
            self.run = self.record.next_run()?;
            self.ended = self.run.is_none();
        }
        Ok(self.run.as_ref().filter(|run| run.end() > block))
    }
}

#[cfg(test)]
impl MapReader {
    /// Bytes of chunks in memory.
    pub(in crate::transfer) fn held_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.record.held_bytes()).sum()
    }
}
