//! Writing deltas into the open segment, so that a small backup is one segment.

use std::collections::HashMap;

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::{
    DeltaRoot, HashRun, MetaPlace, PageRef, Place, Placed, SegmentRef, encode_extents, encode_hashes,
};
use holdfast_vault_format::record::DeltaRef;
use holdfast_vault_format::segment::MAX_META_BYTES;
use holdfast_vault_format::{BLOCK_SIZE, Extent};

use crate::VaultError;
use crate::backup::{Shared, State};
use crate::layer::Layer;

/// A page ends at so many extents or hashes, whichever comes first: at most some 600 KiB.
const PAGE_EXTENTS: usize = 16 << 10;
const PAGE_HASHES: usize = 64 << 10;

/// The deltas of one disk of the new point.
pub(super) struct DiskStack {
    pub(super) deltas: Vec<DeltaRef>,
    pub(super) changed_bytes: u64,
}

impl Shared {
    /// Writes one delta per changed disk.
    pub(super) fn write_deltas(&self) -> Result<Vec<DiskStack>, VaultError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut stacks = Vec::new();
        for index in 0..self.request.disks.len() {
            stacks.push(self.write_delta(state, index)?);
        }
        Ok(stacks)
    }

    fn write_delta(&self, state: &mut State, index: usize) -> Result<DiskStack, VaultError> {
        let spec = &self.request.disks[index];
        let blocks = blocks_of(spec.size_bytes);
        let base = self.opened.base.as_ref().and_then(|point| point.disk(&spec.name));
        let base_blocks = base.map_or(0, |disk| blocks_of(disk.size_bytes));
        let mut layer = Layer::clone(&state.disks[index].layer);
        layer.truncate(blocks);
        check_coverage(&spec.name, &layer, base_blocks, blocks)?;
        let changed_blocks: u64 = layer.iter().map(|(extent, _)| extent.block_count).sum();
        let mut deltas = base.map(|disk| disk.stack.clone()).unwrap_or_default();
        if layer.is_empty() && base_blocks <= blocks && !deltas.is_empty() {
            return Ok(DiskStack { deltas, changed_bytes: 0 });
        }
        let (segments, mut placed) = place(state, &layer)?;
        let mut hashes: Vec<HashRun> =
            layer.iter().map(|(extent, entry)| HashRun { extent, hashes: entry.hashes.clone() }).collect();
        if base_blocks > blocks {
            // What was cut off must not come back when the disk grows again.
            let extent = Extent { first_block: blocks, block_count: base_blocks - blocks };
            placed.push(Placed { extent, place: Place::Zero });
            hashes.push(HashRun { extent, hashes: Vec::new() });
        }
        let mut extent_pages = Vec::new();
        for page in placed.chunks(PAGE_EXTENTS) {
            let bounds = bounds(page.iter().map(|placed| placed.extent));
            extent_pages.push(self.write_page(state, &encode_extents(page), bounds)?);
        }
        let mut hash_pages = Vec::new();
        for page in hash_chunks(&hashes) {
            let bounds = bounds(page.iter().map(|run| run.extent));
            hash_pages.push(self.write_page(state, &encode_hashes(page), bounds)?);
        }
        let root = DeltaRoot { size_bytes: spec.size_bytes, segments, extent_pages, hash_pages }.encode();
        let mut parts = Vec::new();
        for part in root.chunks(MAX_META_BYTES) {
            parts.push(self.write_meta(state, part)?.0);
        }
        deltas.insert(0, DeltaRef { seq: self.opened.seq, hash: *blake3::hash(&root).as_bytes(), parts });
        Ok(DiskStack { deltas, changed_bytes: changed_blocks * BLOCK_SIZE as u64 })
    }

    fn write_page(
        &self,
        state: &mut State,
        bytes: &[u8],
        (first_block, end_block): (u64, u64),
    ) -> Result<PageRef, VaultError> {
        let (place, hash) = self.write_meta(state, bytes)?;
        Ok(PageRef { first_block, end_block, place, hash })
    }

    fn write_meta(&self, state: &mut State, bytes: &[u8]) -> Result<(MetaPlace, [u8; 32]), VaultError> {
        let open = self.open_segment(state, &mut Vec::new())?;
        let (cell, hash) = open.writer.meta(bytes)?;
        let place = MetaPlace { segment: open.writer.id.number, cell };
        self.seal_if_full(state)?;
        Ok((place, hash))
    }
}

/// First block and end of extents that are in order.
fn bounds(mut extents: impl DoubleEndedIterator<Item = Extent>) -> (u64, u64) {
    let first = extents.next();
    let last = extents.next_back().or(first);
    (
        first.map_or(0, |extent| extent.first_block),
        last.map_or(0, |extent| extent.first_block + extent.block_count),
    )
}

/// The segments that a layer's blocks lie in, and its extents with places in that list.
fn place(state: &State, layer: &Layer) -> Result<(Vec<SegmentRef>, Vec<Placed>), VaultError> {
    let mut segments = Vec::new();
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    let mut placed: Vec<Placed> = Vec::new();
    for (extent, entry) in layer.iter() {
        let place = match entry.place {
            Place::Zero => Place::Zero,
            Place::Cell { segment: slot, cell, cell_block } => {
                let segment = match numbers.get(&slot) {
                    Some(number) => *number,
                    None => {
                        let number = u32::try_from(segments.len()).unwrap_or(u32::MAX);
                        segments.push(segment_ref(state, slot)?);
                        numbers.insert(slot, number);
                        number
                    }
                };
                Place::Cell { segment, cell, cell_block }
            }
        };
        match placed.last_mut() {
            Some(last) if continues(last, extent, place) => last.extent.block_count += extent.block_count,
            _ => placed.push(Placed { extent, place }),
        }
    }
    Ok((segments, placed))
}

/// Whether an extent goes on where the last one ends, on the disk and in its place.
fn continues(last: &Placed, extent: Extent, place: Place) -> bool {
    if last.extent.first_block + last.extent.block_count != extent.first_block {
        return false;
    }
    match (last.place, place) {
        (Place::Zero, Place::Zero) => true,
        (
            Place::Cell { segment, cell, cell_block },
            Place::Cell { segment: next_segment, cell: next_cell, cell_block: next_block },
        ) => {
            (segment, cell) == (next_segment, next_cell)
                && u64::from(cell_block) + last.extent.block_count == u64::from(next_block)
        }
        _ => false,
    }
}

fn segment_ref(state: &State, slot: u32) -> Result<SegmentRef, VaultError> {
    let entry = state.segments.get(slot as usize).ok_or(VaultError::Broken)?;
    let root = match (entry.root, &state.writer) {
        (Some(root), _) => root,
        (None, Some(open)) if open.slot == slot as usize => open.writer.root(),
        (None, _) => return Err(VaultError::Broken),
    };
    Ok(SegmentRef { seq: entry.id.seq, number: entry.id.number, generation: entry.id.generation, root })
}

/// Every block from the base's end on must have been sent; without a base, every block.
fn check_coverage(disk: &str, layer: &Layer, base_blocks: u64, blocks: u64) -> Result<(), VaultError> {
    let mut at = base_blocks;
    for (extent, _) in layer.range(base_blocks, blocks) {
        if extent.first_block > at {
            break;
        }
        at = at.max(extent.first_block + extent.block_count);
    }
    if at >= blocks {
        return Ok(());
    }
    let end_block = layer.range(at, blocks).next().map_or(blocks, |(extent, _)| extent.first_block);
    Err(VaultError::NotCovered { disk: disk.to_owned(), first_block: at, end_block })
}

fn hash_chunks(runs: &[HashRun]) -> Vec<&[HashRun]> {
    let (mut chunks, mut start, mut hashes) = (Vec::new(), 0, 0);
    for (at, run) in runs.iter().enumerate() {
        if at > start && (hashes + run.hashes.len() > PAGE_HASHES || at - start >= PAGE_EXTENTS) {
            chunks.push(&runs[start..at]);
            (start, hashes) = (at, 0);
        }
        hashes += run.hashes.len();
    }
    if start < runs.len() {
        chunks.push(&runs[start..]);
    }
    chunks
}
