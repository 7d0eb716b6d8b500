//! The delta of a disk: what was received, merged with the deltas of the base that it would crowd.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::{
    DeltaRoot, HashRun, PageRef, Place, Placed, SegmentRef, decode_extents, decode_hashes,
};
use holdfast_vault_format::record::DeltaRef;
use holdfast_vault_format::segment::MAX_META_BYTES;
use holdfast_vault_format::{BLOCK_SIZE, DecodeError, Extent};

use uuid::Uuid;

use crate::backup::Shared;
use crate::layer::Layer;
use crate::received::ReceivedHashes;
use crate::segment_id::SegmentId;
use crate::{VaultError, crash_point};

use super::entry::Entry;
use super::pages::{Pages, Written, write_meta};
use super::sweep::{Batches, Sweep};

/// Received extents that are looked at at once, and blocks of them.
const BATCH: usize = 4 << 10;
const BATCH_BLOCKS: u64 = 64 << 10;

/// The deltas of one disk of the new point.
pub(super) struct DiskStack {
    pub(super) deltas: Vec<DeltaRef>,
    pub(super) changed_bytes: u64,
}

/// What one disk's new delta is made of.
struct Sources {
    shared: Arc<Shared>,
    layer: Arc<Layer>,
    /// What was cut off from the disk must not come back when it grows again.
    cut: Option<Extent>,
    /// Deltas of the base that are merged, newest first, with the backups that wrote them.
    merged: Vec<(u64, DeltaRoot)>,
    /// If nothing lies under the new delta: it has to cover so many blocks, and need not speak of more.
    bottom: Option<u64>,
}

/// Writes one delta per changed disk. The backup is closed.
pub(super) async fn write_deltas(shared: &Arc<Shared>) -> Result<Vec<DiskStack>, VaultError> {
    let mut stacks = Vec::new();
    for index in 0..shared.request.disks.len() {
        stacks.push(write_delta(shared, index).await?);
        crash_point("engine::delta_written");
    }
    Ok(stacks)
}

async fn write_delta(shared: &Arc<Shared>, index: usize) -> Result<DiskStack, VaultError> {
    let spec = &shared.request.disks[index];
    let blocks = blocks_of(spec.size_bytes);
    let base = shared.opened.base.as_ref().and_then(|point| point.disk(&spec.name));
    let base_blocks = base.map_or(0, |disk| blocks_of(disk.size_bytes));
    let layer = Arc::clone(&shared.state().disks[index].layer);
    check_coverage(&spec.name, &layer, base_blocks, blocks)?;
    let mut deltas = base.map(|disk| disk.stack.clone()).unwrap_or_default();
    if layer.is_empty() && base_blocks <= blocks && !deltas.is_empty() {
        return Ok(DiskStack { deltas, changed_bytes: 0 });
    }
    let changed_blocks: u64 = layer.iter().map(|placed| placed.extent.block_count).sum();
    let cut =
        (base_blocks > blocks).then(|| Extent { first_block: blocks, block_count: base_blocks - blocks });
    let merged = crowded(shared, encoded_len(&layer, cut), &deltas).await?;
    deltas.drain(..merged.len());
    let bottom = deltas.is_empty().then_some(blocks);
    let sources = Sources { shared: Arc::clone(shared), layer, cut, merged, bottom };
    let (extents, segments) = sources.write_extents().await?;
    let hashes = sources.write_hashes().await?;
    let root = DeltaRoot {
        size_bytes: spec.size_bytes,
        extents: extents.entries,
        segments,
        extent_pages: extents.pages,
        hash_pages: hashes.pages,
    };
    let root = root.encode();
    let mut parts = Vec::new();
    for part in root.chunks(MAX_META_BYTES) {
        parts.push(write_meta(shared, part.to_vec()).await?.0);
    }
    deltas.insert(0, DeltaRef { seq: shared.opened.seq, hash: *blake3::hash(&root).as_bytes(), parts });
    Ok(DiskStack { deltas, changed_bytes: changed_blocks * BLOCK_SIZE as u64 })
}

/// Bytes that the pages of what was received will take, about.
fn encoded_len(layer: &Layer, cut: Option<Extent>) -> u64 {
    /// Gap, count and place; the run of its hashes.
    const EXTENT: u64 = 12;
    const HASH: u64 = 8;
    let len = |placed: Placed| match placed.place {
        Place::Zero => EXTENT,
        Place::Cell { .. } => EXTENT + placed.extent.block_count * HASH,
    };
    layer.iter().map(len).sum::<u64>() + cut.map_or(0, |_| EXTENT)
}

/// The newest deltas of a stack that are merged with a new one of so many bytes: while what lies over a delta is larger than
/// a quarter of it. So each delta of a stack has about four times the bytes of the one above it, and what is rewritten is
/// paid for by what was added since it was written last.
async fn crowded(
    shared: &Shared,
    mut above: u64,
    stack: &[DeltaRef],
) -> Result<Vec<(u64, DeltaRoot)>, VaultError> {
    let mut merged = Vec::new();
    for delta in stack {
        let root = shared.vault.delta_root(shared.request.machine, delta).await?;
        let limit = above.saturating_mul(4);
        let len = pages_len(shared, delta.seq, &root, limit).await?;
        if len >= limit {
            break;
        }
        above = above.saturating_add(len);
        merged.push((delta.seq, root));
    }
    Ok(merged)
}

/// Bytes of a delta's pages; no more are counted than `limit`, so that a large one costs a look at one directory.
async fn pages_len(shared: &Shared, seq: u64, root: &DeltaRoot, limit: u64) -> Result<u64, VaultError> {
    let machine = shared.request.machine;
    let mut len = 0;
    for page in root.extent_pages.iter().chain(&root.hash_pages) {
        if len >= limit {
            break;
        }
        let id = SegmentId { machine, seq, number: page.place.segment, generation: 0 };
        len += u64::from(shared.vault.segment(id).await?.entry(page.place.cell)?.plain_len);
    }
    Ok(len)
}

impl Sources {
    /// Writes the pages of extents; answers them and the segments that they name.
    async fn write_extents(&self) -> Result<(Written, Vec<SegmentRef>), VaultError> {
        let mut sources = vec![received_extents(Arc::clone(&self.layer), self.cut)];
        let mut named = vec![self.shared.state().segments_received(self.shared.request.machine)?];
        for (seq, root) in &self.merged {
            sources.push(self.pages(*seq, &root.extent_pages, decode_extents));
            named.push(root.segments.clone());
        }
        let lent = Arc::clone(&self.shared.state().lent);
        let mut segments = Segments::default();
        let number = |source: usize, mut placed: Placed| {
            if let Place::Cell { segment, cell, .. } = &mut placed.place {
                if source == 0
                    && let Some(place) = lent.get((*segment, *cell))
                {
                    (*segment, *cell) = place;
                }
                let named = named[source].get(*segment as usize).ok_or_else(|| {
                    VaultError::mismatch("a delta", format!("it names no segment {segment}"))
                })?;
                *segment = segments.number(*named)?;
            }
            Ok(placed)
        };
        let written = self.write(sources, number).await?;
        Ok((written, segments.refs))
    }

    /// Writes the pages of hashes.
    async fn write_hashes(&self) -> Result<Written, VaultError> {
        let mut sources = vec![received_hashes(&self.shared, Arc::clone(&self.layer), self.cut)];
        for (seq, root) in &self.merged {
            sources.push(self.pages(*seq, &root.hash_pages, decode_hashes));
        }
        self.write(sources, |_, run: HashRun| Ok(run)).await
    }

    /// Writes what the sources (newest first) say. Under a bottom delta there is nothing: it must not leave a block out.
    async fn write<T: Entry>(
        &self,
        sources: Vec<Batches<T>>,
        mut number: impl FnMut(usize, T) -> Result<T, VaultError> + Send,
    ) -> Result<Written, VaultError> {
        let mut sweep = Sweep::new(sources);
        let mut pages = Pages::new(Arc::clone(&self.shared));
        let mut covered = 0;
        while let Some((source, mut entry)) = sweep.next().await? {
            if let Some(blocks) = self.bottom {
                if entry.first() != covered || covered >= blocks {
                    break;
                }
                if entry.end() > blocks {
                    entry.split(blocks);
                }
            }
            covered = entry.end();
            pages.push(number(source, entry)?).await?;
        }
        if self.bottom.is_some_and(|blocks| covered < blocks) {
            let detail = format!("no delta covers block {covered}");
            return Err(VaultError::mismatch("the stack of deltas", detail));
        }
        pages.finish().await
    }

    /// The entries of a delta's pages, a page at a time.
    fn pages<T: Entry>(
        &self,
        seq: u64,
        pages: &[PageRef],
        decode: fn(&[u8], &PageRef) -> Result<Vec<T>, DecodeError>,
    ) -> Batches<T> {
        let shared = Arc::clone(&self.shared);
        let read = move |page: PageRef| {
            let shared = Arc::clone(&shared);
            async move {
                let bytes = shared.vault.delta_page(shared.request.machine, seq, &page).await?;
                decode(&bytes, &page).map_err(|source| {
                    VaultError::damaged(&format!("a page of the delta of backup {seq}"), source)
                })
            }
        };
        stream::iter(pages.to_vec()).then(read).boxed()
    }
}

fn received_extents(layer: Arc<Layer>, cut: Option<Extent>) -> Batches<Placed> {
    let cut = cut.map(|extent| Ok(vec![Placed { extent, place: Place::Zero }]));
    stream::iter(received(layer).map(Ok)).chain(stream::iter(cut)).boxed()
}

fn received_hashes(shared: &Arc<Shared>, layer: Arc<Layer>, cut: Option<Extent>) -> Batches<HashRun> {
    let cut = cut.map(|extent| Ok(vec![HashRun { extent, hashes: Vec::new() }]));
    let state = (ReceivedHashes::new(Arc::clone(shared)), received(layer));
    let runs = stream::try_unfold(state, |(mut hashes, mut received)| async move {
        let Some(batch) = received.next() else { return Ok(None) };
        Ok(Some((hashes.runs(&batch).await?, (hashes, received))))
    });
    runs.chain(stream::iter(cut)).boxed()
}

/// What a layer holds, some extents at a time.
fn received(layer: Arc<Layer>) -> impl Iterator<Item = Vec<Placed>> + Send + 'static {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut blocks = 0;
        let few = |placed: &Placed| {
            let more = blocks < BATCH_BLOCKS;
            blocks += placed.extent.block_count;
            more
        };
        let batch: Vec<Placed> = layer.starting_at(at).take(BATCH).take_while(few).collect();
        at = batch.last()?.end();
        Some(batch)
    })
}

/// The segments that a delta names.
#[derive(Default)]
struct Segments {
    refs: Vec<SegmentRef>,
    /// By lender, backup, number and generation.
    numbers: HashMap<(Option<Uuid>, u64, u32, u32), u32>,
}

impl Segments {
    fn number(&mut self, segment: SegmentRef) -> Result<u32, VaultError> {
        let next = u32::try_from(self.refs.len()).unwrap_or(u32::MAX);
        let key = (segment.lender, segment.seq, segment.number, segment.generation);
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.refs.push(segment);
        } else if self.refs[number as usize].root != segment.root {
            return Err(VaultError::mismatch("a delta", "two deltas disagree about a segment"));
        }
        Ok(number)
    }
}

/// Every block from the base's end on must have been sent; without a base, every block.
fn check_coverage(disk: &str, layer: &Layer, base_blocks: u64, blocks: u64) -> Result<(), VaultError> {
    let mut at = base_blocks;
    for received in layer.range(base_blocks, blocks) {
        if received.first() > at {
            break;
        }
        at = at.max(received.end());
    }
    if at >= blocks {
        return Ok(());
    }
    let end_block = layer.range(at, blocks).next().map_or(blocks, |received| received.first());
    Err(VaultError::NotCovered { disk: disk.to_owned(), first_block: at, end_block })
}

#[cfg(test)]
mod tests;
