//! Reading segments.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use holdfast_vault_format::DecodeError;
use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::container::{FOOTER_LEN, HEADER_LEN, Kind, Opener};
use holdfast_vault_format::delta::SegmentRef;
use holdfast_vault_format::segment::{CellBlocks, CellEntry, CellKind, CellRef, Directory, decode_table};
use holdfast_vault_format::{cell_hash, decode_cell};

use crate::error::chain;
use crate::object;
use crate::{Vault, VaultError, name};

/// Read with the footer in one request; most directories fit.
const TAIL: u64 = 64 << 10;
/// Memory that kept directories may take.
const CACHE_BYTES: usize = 32 << 20;
/// A directory beside its cells.
const SEGMENT_OVERHEAD: usize = 2 << 10;

/// A segment whose directory was read and authenticated.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) directory: Directory,
    pub(crate) root: [u8; 32],
    pub(crate) size: u64,
    offsets: Vec<u64>,
    opener: Opener,
    table_at: u64,
    table_len: u32,
}

/// Which segment: backup, number, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SegmentId {
    pub(crate) machine: Uuid,
    pub(crate) seq: u64,
    pub(crate) number: u32,
    pub(crate) generation: u32,
}

impl SegmentId {
    /// A segment that a delta of this machine names.
    pub(crate) fn named(machine: Uuid, named: &SegmentRef) -> Self {
        let SegmentRef { lender, seq, number, generation, .. } = *named;
        Self { machine: lender.unwrap_or(machine), seq, number, generation }
    }

    pub(crate) fn name(&self) -> String {
        name::segment(self.machine, self.seq, self.number, self.generation)
    }
}

impl From<SegmentId> for CondemnedSegment {
    fn from(SegmentId { machine, seq, number, generation }: SegmentId) -> Self {
        Self { machine, seq, number, generation }
    }
}

/// The directories that were used last, as many as [`CACHE_BYTES`] hold.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<CacheState>);

#[derive(Debug, Default)]
struct CacheState {
    clock: u64,
    bytes: usize,
    /// With the time of their last use.
    segments: HashMap<SegmentId, (u64, Arc<Segment>)>,
    /// By that time.
    order: BTreeMap<u64, SegmentId>,
}

impl Cache {
    fn get(&self, id: SegmentId) -> Option<Arc<Segment>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = state.remove(id)?;
        state.insert(id, Arc::clone(&segment));
        Some(segment)
    }

    fn put(&self, id: SegmentId, segment: Arc<Segment>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.remove(id);
        state.insert(id, segment);
        while state.bytes > CACHE_BYTES
            && let Some(oldest) = state.order.values().next().copied()
        {
            state.remove(oldest);
        }
    }
}

impl CacheState {
    fn insert(&mut self, id: SegmentId, segment: Arc<Segment>) {
        self.clock += 1;
        self.bytes += segment.memory();
        self.order.insert(self.clock, id);
        self.segments.insert(id, (self.clock, segment));
    }

    fn remove(&mut self, id: SegmentId) -> Option<Arc<Segment>> {
        let (used, segment) = self.segments.remove(&id)?;
        self.order.remove(&used);
        self.bytes -= segment.memory();
        Some(segment)
    }
}

impl Vault {
    /// Reads a segment's directory, or answers it from the cache.
    pub(crate) async fn segment(&self, id: SegmentId) -> Result<Arc<Segment>, VaultError> {
        if let Some(segment) = self.inner.segments.get(id) {
            return Ok(segment);
        }
        let name = id.name();
        let damaged = |source| VaultError::damaged(&name, source);
        let (tail, size) = object::read_tail(self.store(), &name, TAIL).await?;
        if size < (HEADER_LEN + FOOTER_LEN) as u64 || tail.len() < FOOTER_LEN {
            return Err(damaged(DecodeError::Truncated { what: "the segment" }));
        }
        // A small segment has come whole.
        let header = if tail.len() as u64 == size {
            tail.slice(..HEADER_LEN)
        } else {
            object::read_range(self.store(), &name, 0..HEADER_LEN as u64).await?
        };
        let opener = Opener::new(&self.inner.ring, &name, &header).map_err(damaged)?;
        if opener.kind != Kind::Segment {
            return Err(VaultError::mismatch(&name, "it is of another kind"));
        }
        let layout = opener.footer(&tail[tail.len() - FOOTER_LEN..], size).map_err(damaged)?;
        let tail_at = size - tail.len() as u64;
        let body_end = layout.body_at + u64::from(layout.body_len);
        let body = if layout.body_at >= tail_at {
            let offset = |at: u64| usize::try_from(at - tail_at).unwrap_or(usize::MAX);
            tail.slice(offset(layout.body_at)..offset(body_end))
        } else {
            object::read_range(self.store(), &name, layout.body_at..body_end).await?
        };
        let body = opener.body(body.to_vec()).map_err(damaged)?;
        let directory = Directory::decode(&body).map_err(damaged)?;
        let offsets = directory.offsets();
        if directory.cells.len() as u64 != u64::from(layout.cells) || offsets.last() != Some(&layout.table_at)
        {
            return Err(damaged(DecodeError::OutOfRange { what: "the directory" }));
        }
        let segment = Arc::new(Segment {
            root: directory.root(),
            directory,
            size,
            offsets,
            opener,
            table_at: layout.table_at,
            table_len: layout.table_len,
            name,
        });
        self.inner.segments.put(id, Arc::clone(&segment));
        Ok(segment)
    }

    /// Which blocks the cells of a segment hold.
    pub(crate) async fn segment_table(&self, segment: &Segment) -> Result<Vec<CellBlocks>, VaultError> {
        let range = segment.table_at..segment.table_at + u64::from(segment.table_len);
        let stored = object::read_range(self.store(), &segment.name, range).await?;
        let damaged = |source| VaultError::damaged(&segment.name, source);
        let table = segment.opener.table(stored.to_vec()).map_err(damaged)?;
        decode_table(&table, &segment.directory).map_err(damaged)
    }

    /// Reads one meta cell and checks it against `hash`, if what refers to it commits to it cell by cell.
    pub(crate) async fn meta_cell(
        &self,
        id: SegmentId,
        cell: u32,
        hash: Option<[u8; 32]>,
    ) -> Result<Vec<u8>, VaultError> {
        let segment = self.segment(id).await?;
        let entry = segment.entry(cell)?;
        if entry.kind != CellKind::Meta || hash.is_some_and(|hash| hash != entry.hash) {
            return Err(VaultError::mismatch(
                &segment.name,
                format!("cell {cell} is not the one referred to"),
            ));
        }
        let stored = object::read_range(self.store(), &segment.name, segment.range(cell)?).await?;
        let plain = segment.open_cell(cell, stored)?;
        if *blake3::hash(&plain).as_bytes() != entry.hash {
            return Err(VaultError::damaged(&segment.name, DecodeError::Hash { what: "a cell" }));
        }
        Ok(plain)
    }
}

impl Segment {
    /// Bytes that it takes in memory, about.
    fn memory(&self) -> usize {
        self.directory.cells.len() * (size_of::<CellEntry>() + size_of::<u64>()) + SEGMENT_OVERHEAD
    }

    pub(crate) fn entry(&self, cell: u32) -> Result<&CellEntry, VaultError> {
        self.directory
            .cells
            .get(cell as usize)
            .ok_or_else(|| VaultError::mismatch(&self.name, format!("it has no cell {cell}")))
    }

    /// Where a cell's stored bytes are.
    pub(crate) fn range(&self, cell: u32) -> Result<std::ops::Range<u64>, VaultError> {
        let at = cell as usize;
        match (self.offsets.get(at), self.offsets.get(at + 1)) {
            (Some(start), Some(end)) => Ok(*start..*end),
            _ => Err(VaultError::mismatch(&self.name, format!("it has no cell {cell}"))),
        }
    }

    /// Authenticates a cell's stored bytes; they are still encoded.
    pub(crate) fn open_cell(&self, cell: u32, stored: Bytes) -> Result<Vec<u8>, VaultError> {
        let entry = self.entry(cell)?;
        self.opener
            .cell(cell, entry.codec_byte(), entry.plain_len, stored.to_vec())
            .map_err(|source| VaultError::damaged(&self.name, source))
    }

    /// Compares a cell with its hash. `stored`: bytes of the segment from `start` on, the cell's among them.
    pub(crate) fn check_cell(&self, cell: u32, stored: &Bytes, start: u64) -> Result<(), VaultError> {
        let range = self.range(cell)?;
        let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
        let data = self.open_cell(cell, stored.slice(at(range.start)..at(range.end)))?;
        let entry = self.entry(cell)?;
        let hash = match entry.kind {
            CellKind::Data { codec, .. } => {
                let plain = decode_cell(codec, entry.plain_len, &data).map_err(|source| {
                    let detail = format!("cell {cell} does not decode: {}", chain(&source));
                    VaultError::mismatch(&self.name, detail)
                })?;
                cell_hash(&plain)
            }
            CellKind::Zero { .. } | CellKind::Meta => cell_hash(&data),
            // The bytes are those of another segment, which is looked at by itself.
            CellKind::Known { .. } => {
                let place = CellRef::decode(&data).map(drop);
                return place.map_err(|source| VaultError::damaged(&self.name, source));
            }
        };
        if hash == entry.hash {
            Ok(())
        } else {
            Err(VaultError::damaged(&self.name, DecodeError::Hash { what: "a cell" }))
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_vault_format::Extent;

    use super::*;
    use crate::writer::SegmentWriter;
    use crate::{KeyFile, Storage};

    /// Segments with the largest directories there are, the first of which is asked for again and again.
    #[tokio::test]
    async fn the_cache_is_bounded_by_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyFile::generate(&dir.path().join("key")).unwrap();
        let path = dir.path().join("vault");
        std::fs::create_dir(&path).unwrap();
        let vault = Vault::create(Storage::directory(&path).unwrap(), &key).await.unwrap();
        let cache = || vault.inner.segments.0.lock().unwrap();
        let id = |number| SegmentId { machine: Uuid::nil(), seq: 1, number, generation: 0 };
        let mut read = 0;
        for number in 0..24 {
            let mut writer =
                SegmentWriter::new(&vault.inner, id(number), Uuid::nil(), vec!["sda".to_owned()]).unwrap();
            while !writer.is_full() {
                writer.zero(0, vec![Extent { first_block: 0, block_count: 1 }]).unwrap();
            }
            let sealed = writer.finish().unwrap();
            object::create(vault.storage(), &id(number).name(), sealed.bytes.into()).await.unwrap();
            read += vault.segment(id(number)).await.unwrap().memory();
            vault.segment(id(0)).await.unwrap();
            assert!(cache().bytes <= CACHE_BYTES);
        }
        assert!(read > CACHE_BYTES * 5 / 4, "too few segments to fill it");
        let state = cache();
        let memory: usize = state.segments.values().map(|(_, segment)| segment.memory()).sum();
        assert_eq!(state.bytes, memory);
        assert_eq!(state.order.len(), state.segments.len());
        assert!(state.bytes > CACHE_BYTES * 3 / 4, "it keeps less than it may");
        assert!(state.segments.contains_key(&id(0)) && state.segments.contains_key(&id(23)));
        assert!(!state.segments.contains_key(&id(1)));
    }
}
