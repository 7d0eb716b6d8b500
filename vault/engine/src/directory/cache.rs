//! What was read of segments and is kept in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::segment_id::SegmentId;

use super::Segment;

/// Memory that kept directories may take.
const CACHE_BYTES: usize = 32 << 20;
/// Backups of which it is remembered which of their segments were replaced.
const FOLDERS: usize = 64;

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
    pub(crate) fn get(&self, id: SegmentId) -> Option<Arc<Segment>> {
        let mut state = self.state();
        let segment = state.remove(id)?;
        state.insert(id, Arc::clone(&segment));
        Some(segment)
    }

    pub(crate) fn put(&self, id: SegmentId, segment: Arc<Segment>) {
        let mut state = self.state();
        state.remove(id);
        state.insert(id, segment);
        while state.bytes > CACHE_BYTES
            && let Some(oldest) = state.order.values().next().copied()
        {
            state.remove(oldest);
        }
    }

    pub(crate) fn forget(&self, id: SegmentId) {
        self.state().remove(id);
    }

    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which segments were replaced, as it was when a backup's were listed last: by backup, the lowest generation that is left of each
/// number, if it is not 0.
#[derive(Debug, Default)]
pub(crate) struct Replaced(Mutex<HashMap<(Uuid, u64), HashMap<u32, u32>>>);

impl Replaced {
    pub(crate) fn generation(&self, id: SegmentId) -> Option<u32> {
        self.state().get(&(id.machine, id.seq))?.get(&id.number).copied()
    }

    pub(crate) fn put(&self, machine: Uuid, seq: u64, generations: HashMap<u32, u32>) {
        let mut state = self.state();
        if state.len() >= FOLDERS {
            state.clear();
        }
        state.insert((machine, seq), generations);
    }

    fn state(&self) -> MutexGuard<'_, HashMap<(Uuid, u64), HashMap<u32, u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use holdfast_vault_format::Extent;

    use super::*;
    use crate::object;
    use crate::writer::SegmentWriter;
    use crate::{KeyFile, Storage, Vault};

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
        let (mut read, buffers) = (0, Arc::default());
        for number in 0..24 {
            let mut writer = SegmentWriter::new(
                &vault.inner.ring,
                id(number),
                Uuid::nil(),
                vec!["sda".to_owned()],
                &buffers,
            )
            .unwrap();
            while !writer.is_full() {
                writer.zero(0, vec![Extent { first_block: 0, block_count: 1 }]).unwrap();
            }
            let sealed = writer.finish().unwrap();
            object::create(vault.storage(), &id(number).name(), sealed.bytes).await.unwrap();
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
