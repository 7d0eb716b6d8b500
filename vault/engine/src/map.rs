//! Block maps: the hash of every block as the vault knows it, streamed in windows so that memory does not depend on the
//! disk's size.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use holdfast_vault_format::Extent;
use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::delta::{DeltaRoot, HashRun, PageRef, Placed, decode_hashes};

use crate::backup::{Backup, Shared};
use crate::received::ReceivedHashes;
use crate::{Point, VaultError};

/// Blocks that are merged at once: 1 MiB of hashes for 512 MiB of disk.
const WINDOW: u64 = 128 << 10;
/// Received extents whose hashes are looked up at once.
const LOOKUP: usize = 16 << 10;

/// Which blocks a map speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapLayer {
    /// Base and what was received since; covers every block of the base.
    Merged,
    /// Only what was received.
    Overlay,
}

/// Consecutive blocks of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRun {
    pub first_block: u64,
    pub blocks: MapBlocks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapBlocks {
    /// 8 bytes per block, little endian.
    Hashes(Bytes),
    /// So many blocks of zeros.
    Zero(u64),
}

/// Reads one map from its beginning.
pub(crate) struct MapReader {
    shared: Arc<Shared>,
    /// Index of the disk.
    disk: usize,
    point: Uuid,
    /// Oldest first.
    deltas: Vec<DeltaHashes>,
    base_blocks: u64,
    received: ReceivedHashes,
    end: u64,
    at: u64,
}

struct DeltaHashes {
    seq: u64,
    pages: Vec<PageRef>,
    /// The page that was read last: windows go upwards, and a page may lie in two of them.
    cached: Option<(usize, Vec<HashRun>)>,
}

impl Backup {
    /// Streams a disk's block hashes, in block order. Call [`Backup::flush`] before: only what is durable may be
    /// skipped by the agent. What is pushed while it streams may show.
    pub async fn read_map(
        &self,
        disk: &str,
        layer: MapLayer,
    ) -> Result<impl Stream<Item = Result<MapRun, VaultError>> + Send + 'static + use<>, VaultError> {
        let index = self.disk_index(disk)?;
        let shared = &self.shared;
        let base = match layer {
            MapLayer::Overlay => None,
            MapLayer::Merged => shared.opened.base.as_ref(),
        };
        let reader = MapReader::new(Arc::clone(shared), index, base).await?;
        Ok(reader.into_stream())
    }
}

impl MapReader {
    /// A map of one disk at `base`, under what was received.
    pub(crate) async fn new(
        shared: Arc<Shared>,
        disk: usize,
        base: Option<&Point>,
    ) -> Result<Self, VaultError> {
        let end = shared.state().disks[disk].layer.end();
        let mut reader = Self {
            disk,
            point: Uuid::nil(),
            deltas: Vec::new(),
            base_blocks: 0,
            received: ReceivedHashes::new(Arc::clone(&shared)),
            end,
            at: 0,
            shared,
        };
        if let Some(point) = base
            && let Some(entry) = point.disk(reader.name())
        {
            reader.point = point.id;
            reader.base_blocks = blocks_of(entry.size_bytes);
            reader.end = reader.end.max(reader.base_blocks);
            for delta in entry.stack.iter().rev() {
                let root = reader.shared.vault.delta_root(point.machine, delta).await?;
                let DeltaRoot { hash_pages, .. } = root;
                reader.deltas.push(DeltaHashes { seq: delta.seq, pages: hash_pages, cached: None });
            }
        }
        Ok(reader)
    }

    fn name(&self) -> &str {
        &self.shared.request.disks[self.disk].name
    }

    /// The rest of the map.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<MapRun, VaultError>> + Send + 'static {
        futures::stream::try_unfold(self, |mut reader| async move {
            if reader.at >= reader.end {
                return Ok(None);
            }
            let runs = reader.next_window().await?;
            Ok::<_, VaultError>(Some((futures::stream::iter(runs).map(Ok::<_, VaultError>), reader)))
        })
        .try_flatten()
    }

    async fn next_window(&mut self) -> Result<Vec<MapRun>, VaultError> {
        let (first, end) = (self.at, (self.at + WINDOW).min(self.end));
        self.at = end;
        let mut window: Vec<Option<u64>> = vec![None; usize::try_from(end - first).unwrap_or(0)];
        for index in 0..self.deltas.len() {
            self.lay_delta(index, first, end, &mut window).await?;
        }
        // A shrunk disk's base may have covered more than its size says.
        let known = self.base_blocks.max(first).min(end);
        for slot in &mut window[usize::try_from(known - first).unwrap_or(0)..] {
            *slot = None;
        }
        let received: Vec<Placed> = self.shared.state().disks[self.disk].layer.range(first, end).collect();
        for received in received.chunks(LOOKUP) {
            for run in self.received.runs(received).await? {
                lay(&mut window, first, &run);
            }
        }
        let must =
            usize::try_from(self.base_blocks.saturating_sub(first)).unwrap_or(usize::MAX).min(window.len());
        if let Some(hole) = window[..must].iter().position(Option::is_none) {
            let block = first + hole as u64;
            return Err(VaultError::DamagedRange {
                machine: self.shared.request.machine.to_string(),
                point: self.point,
                disk: self.name().to_owned(),
                first_byte: block * 4096,
                end_byte: (block + 1) * 4096,
                source: Box::new(VaultError::mismatch("the stack of deltas", "no delta covers the block")),
            });
        }
        Ok(runs_of(&window, first))
    }

    async fn lay_delta(
        &mut self,
        index: usize,
        first: u64,
        end: u64,
        window: &mut [Option<u64>],
    ) -> Result<(), VaultError> {
        let delta = &mut self.deltas[index];
        let start = delta.pages.partition_point(|page| page.end_block <= first);
        for number in start..delta.pages.len() {
            let page = delta.pages[number];
            if page.first_block >= end {
                break;
            }
            if delta.cached.as_ref().is_none_or(|(cached, _)| *cached != number) {
                let bytes =
                    self.shared.vault.delta_page(self.shared.request.machine, delta.seq, &page).await?;
                let runs = decode_hashes(&bytes, &page).map_err(|source| {
                    VaultError::damaged(&format!("a page of the delta of backup {}", delta.seq), source)
                })?;
                delta.cached = Some((number, runs));
            }
            if let Some((_, runs)) = &delta.cached {
                for run in runs {
                    lay(window, first, run);
                }
            }
        }
        Ok(())
    }
}

/// Writes a run into the window that starts at `first`; without hashes it is a run of zeros.
fn lay(window: &mut [Option<u64>], first: u64, run: &HashRun) {
    let HashRun { extent: Extent { first_block: run_first, block_count }, ref hashes } = *run;
    let end = first + window.len() as u64;
    let (from, to) = (run_first.max(first), (run_first + block_count).min(end));
    for block in from..to {
        let hash =
            usize::try_from(block - run_first).ok().and_then(|at| hashes.get(at)).copied().unwrap_or(0);
        if let Ok(slot) = usize::try_from(block - first) {
            window[slot] = Some(hash);
        }
    }
}

fn runs_of(window: &[Option<u64>], first: u64) -> Vec<MapRun> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < window.len() {
        let Some(hash) = window[at] else {
            at += 1;
            continue;
        };
        let start = at;
        let first_block = first + start as u64;
        if hash == 0 {
            while at < window.len() && window[at] == Some(0) {
                at += 1;
            }
            runs.push(MapRun { first_block, blocks: MapBlocks::Zero((at - start) as u64) });
        } else {
            let mut bytes = Vec::new();
            while let Some(Some(hash)) = window.get(at).filter(|hash| **hash != Some(0)) {
                bytes.extend_from_slice(&hash.to_le_bytes());
                at += 1;
            }
            runs.push(MapRun { first_block, blocks: MapBlocks::Hashes(bytes.into()) });
        }
    }
    runs
}
