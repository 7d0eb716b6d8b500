//! Gathers changed blocks into cells, and cells into batches that make one frame each.

use holdfast_vault_format::{BLOCK_SIZE, Extent, MAX_CELL_BYTES};

/// Most extents of one cell.
pub(super) const MAX_CELL_EXTENTS: usize = 32;
/// Plain bytes after which a batch is handed on: compressed, it makes a frame of about 1 MiB, and never more than 2.
const BATCH_BYTES: usize = 2 << 20;
/// Zero extents after which a batch is handed on: they take some 20 bytes each on the wire.
const BATCH_ZEROS: usize = 8192;

/// How blocks are put into cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A cell holds only blocks of one aligned group, so that equal disks give equal cells: for full backups.
    Aligned,
    /// A cell takes changed blocks from anywhere, in block order: for incremental ones.
    Gathered,
}

/// Where changed blocks belong that are compressed together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PlainCell {
    pub(super) extents: Vec<Extent>,
    /// Of its blocks, in bytes.
    pub(super) plain_bytes: usize,
}

/// Cells and zero extents of one disk for one frame.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) cells: Vec<PlainCell>,
    pub(super) zeros: Vec<Extent>,
    /// All changed blocks in it, in bytes.
    pub(super) changed_bytes: u64,
    /// The blocks of all cells, one after the other: one piece of memory instead of many costs the kernel less.
    plain: Vec<u8>,
}

impl Batch {
    /// Each cell with its blocks.
    pub(super) fn cells(&self) -> impl Iterator<Item = (&PlainCell, &[u8])> {
        self.cells.iter().scan(self.plain.as_slice(), |rest, cell| {
            let (plain, next) = rest.split_at_checked(cell.plain_bytes)?;
            *rest = next;
            Some((cell, plain))
        })
    }
}

/// Takes changed blocks in ascending order and hands on batches.
#[derive(Debug)]
pub(super) struct Gatherer<S> {
    layout: Layout,
    cell_blocks: u64,
    /// Its blocks are the last ones of the batch.
    cell: PlainCell,
    batch: Batch,
    sink: S,
}

impl<E, S: FnMut(Batch) -> Result<(), E>> Gatherer<S> {
    /// `cell_blocks` is at least 1.
    pub(super) fn new(layout: Layout, cell_blocks: u64, sink: S) -> Self {
        Self { layout, cell_blocks, cell: PlainCell::default(), batch: Batch::default(), sink }
    }

    /// Takes consecutive changed blocks; `data` is whole blocks.
    ///
    /// # Errors
    /// Of the sink.
    pub(super) fn data(&mut self, mut first: u64, mut data: &[u8]) -> Result<(), E> {
        while !data.is_empty() {
            if !self.takes(first) {
                self.end_cell()?;
            }
            let room = match self.layout {
                Layout::Aligned => self.cell_blocks - first % self.cell_blocks,
                Layout::Gathered => self.cell_blocks - (self.cell.plain_bytes / BLOCK_SIZE) as u64,
            };
            let room = usize::try_from(room).unwrap_or(usize::MAX).saturating_mul(BLOCK_SIZE);
            let (taken, rest) = data.split_at(room.min(data.len()));
            let block_count = (taken.len() / BLOCK_SIZE) as u64;
            push_extent(&mut self.cell.extents, first, block_count);
            self.cell.plain_bytes += taken.len();
            if self.batch.plain.is_empty() {
                self.batch.plain.reserve(BATCH_BYTES + MAX_CELL_BYTES);
            }
            self.batch.plain.extend_from_slice(taken);
            self.batch.changed_bytes += taken.len() as u64;
            first += block_count;
            data = rest;
        }
        Ok(())
    }

    /// Takes consecutive changed blocks that are all zeros.
    ///
    /// # Errors
    /// Of the sink.
    pub(super) fn zeros(&mut self, first: u64, block_count: u64) -> Result<(), E> {
        push_extent(&mut self.batch.zeros, first, block_count);
        self.batch.changed_bytes += block_count * BLOCK_SIZE as u64;
        if self.batch.zeros.len() >= BATCH_ZEROS { self.end_batch() } else { Ok(()) }
    }

    /// Hands on what is left.
    ///
    /// # Errors
    /// Of the sink.
    pub(super) fn finish(mut self) -> Result<(), E> {
        self.end_cell()?;
        self.end_batch()
    }

    /// Whether the open cell can take this block.
    fn takes(&self, block: u64) -> bool {
        let Some(last) = self.cell.extents.last() else { return true };
        let adjacent = last.first_block + last.block_count == block;
        match self.layout {
            Layout::Aligned => last.first_block / self.cell_blocks == block / self.cell_blocks,
            Layout::Gathered => {
                ((self.cell.plain_bytes / BLOCK_SIZE) as u64) < self.cell_blocks
                    && (adjacent || self.cell.extents.len() < MAX_CELL_EXTENTS)
            }
        }
    }

    fn end_cell(&mut self) -> Result<(), E> {
        if self.cell.extents.is_empty() {
            return Ok(());
        }
        self.batch.cells.push(std::mem::take(&mut self.cell));
        if self.batch.plain.len() >= BATCH_BYTES { self.end_batch() } else { Ok(()) }
    }

    fn end_batch(&mut self) -> Result<(), E> {
        if self.batch.cells.is_empty() && self.batch.zeros.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.batch);
        // The open cell leaves with the next batch.
        let ended = batch.plain.len() - self.cell.plain_bytes;
        self.batch.plain.extend_from_slice(&batch.plain[ended..]);
        self.batch.changed_bytes = self.cell.plain_bytes as u64;
        batch.plain.truncate(ended);
        batch.changed_bytes -= self.batch.changed_bytes;
        (self.sink)(batch)
    }
}

fn push_extent(extents: &mut Vec<Extent>, first_block: u64, block_count: u64) {
    match extents.last_mut() {
        Some(last) if last.first_block + last.block_count == first_block => last.block_count += block_count,
        _ => extents.push(Extent { first_block, block_count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(layout: Layout, cell_blocks: u64, blocks: &[(u64, u64)]) -> Vec<Vec<(u64, u64)>> {
        let mut cells = Vec::new();
        let mut gatherer = Gatherer::new(layout, cell_blocks, |batch: Batch| {
            for (cell, plain) in batch.cells() {
                let extents: Vec<(u64, u64)> =
                    cell.extents.iter().map(|extent| (extent.first_block, extent.block_count)).collect();
                let blocks: u64 = extents.iter().map(|(_, count)| count).sum();
                assert_eq!(plain.len() as u64, blocks * BLOCK_SIZE as u64);
                cells.push(extents);
            }
            Ok::<(), ()>(())
        });
        for (first, count) in blocks {
            gatherer.data(*first, &vec![1; usize::try_from(*count).unwrap() * BLOCK_SIZE]).unwrap();
        }
        gatherer.finish().unwrap();
        cells
    }

    #[test]
    fn aligned_cells_never_leave_their_group() {
        let cells = gather(Layout::Aligned, 32, &[(0, 40), (41, 3), (62, 5)]);
        assert_eq!(cells, vec![vec![(0, 32)], vec![(32, 8), (41, 3), (62, 2)], vec![(64, 3)]]);
    }

    #[test]
    fn gathered_cells_are_full_or_have_the_most_extents() {
        let cells = gather(Layout::Gathered, 32, &[(5, 30), (100, 10), (200, 1)]);
        assert_eq!(cells, vec![vec![(5, 30), (100, 2)], vec![(102, 8), (200, 1)]]);
        let scattered: Vec<(u64, u64)> = (0..40).map(|index| (index * 10, 1)).collect();
        let cells = gather(Layout::Gathered, 64, &scattered);
        assert_eq!(cells.iter().map(Vec::len).collect::<Vec<_>>(), [32, 8]);
    }

    #[test]
    fn batches_are_bounded_by_bytes_and_by_zero_extents() {
        let mut batches = Vec::new();
        let mut gatherer = Gatherer::new(Layout::Gathered, 32, |batch: Batch| {
            batches.push((batch.plain.len(), batch.zeros.len(), batch.changed_bytes));
            Ok::<(), ()>(())
        });
        gatherer.data(0, &vec![1; 5 << 20]).unwrap();
        for index in 0..10_000 {
            gatherer.zeros(10_000 + 2 * index, 1).unwrap();
        }
        gatherer.finish().unwrap();
        assert!(batches.iter().all(|(plain, zeros, _)| *plain <= BATCH_BYTES && *zeros <= BATCH_ZEROS));
        let changed: u64 = batches.iter().map(|(_, _, changed)| changed).sum();
        assert_eq!(changed, (5 << 20) + 10_000 * BLOCK_SIZE as u64);
    }
}
