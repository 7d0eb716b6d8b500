//! Memory that segments are made in, used again for the next one: to have the kernel hand out and clear fresh pages takes longer
//! than to fill and seal them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Where an object begins in memory, so that it can be written past the page cache: a page, and at least a sector of any disk.
pub(crate) const ALIGNMENT: usize = 4096;

/// As many as were in use at once, until it is closed.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    is_closed: bool,
}

impl Buffers {
    /// A buffer with room for so many bytes. It holds as many zeros as it takes to begin an aligned object behind them.
    pub(crate) fn take(&self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.free().buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(capacity + ALIGNMENT);
        let start = padding(&buffer);
        buffer.resize(start, 0);
        buffer
    }

    /// Keeps none any more.
    pub(crate) fn close(&self) {
        *self.free() = Free { buffers: Vec::new(), is_closed: true };
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object in a buffer, which comes back when nobody reads it any more.
    pub(crate) fn lend(self: &Arc<Self>, buffer: Vec<u8>, start: usize) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: Arc::clone(self) }).slice(start..)
    }
}

/// Bytes before the first aligned one of a buffer.
fn padding(buffer: &[u8]) -> usize {
    buffer.as_ptr().align_offset(ALIGNMENT)
}

struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut free = self.home.free();
        if !free.is_closed {
            free.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_aligned_and_their_memory_comes_back() {
        let buffers = Arc::new(Buffers::default());
        let mut places = Vec::new();
        for content in [b"one", b"two"] {
            let mut buffer = buffers.take(1 << 20);
            let start = buffer.len();
            buffer.extend_from_slice(content);
            let object = buffers.lend(buffer, start);
            assert_eq!(object, content.as_slice());
            assert_eq!(object.as_ptr().align_offset(ALIGNMENT), 0);
            places.push(object.as_ptr());
            // Whoever still reads keeps it.
            let reader = object.slice(1..);
            drop(object);
            assert!(buffers.free().buffers.is_empty());
            drop(reader);
            assert_eq!(buffers.free().buffers.len(), 1);
        }
        assert_eq!(places[0], places[1]);
        let lent = buffers.take(1 << 20);
        let lent = buffers.lend(lent, 0);
        buffers.close();
        drop(lent);
        assert!(buffers.free().buffers.is_empty());
    }
}
