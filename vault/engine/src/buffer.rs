//! Memory that segments are made in, used again for the next one: to have the kernel hand out and clear fresh pages takes longer
//! than to fill and seal them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Where an object begins in memory, so that it can be written past the page cache: a page, and at least a sector of any disk.
pub(crate) const ALIGNMENT: usize = 4096;

/// As many as were in use at once.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer with room for so many bytes. It holds as many zeros as it takes to begin an aligned object behind them.
    pub(crate) fn take(&self, capacity: usize) -> Vec<u8> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = free.unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(capacity + ALIGNMENT);
        let start = padding(&buffer);
        buffer.resize(start, 0);
        buffer
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
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
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
            assert!(buffers.free.lock().unwrap().is_empty());
            drop(reader);
            assert_eq!(buffers.free.lock().unwrap().len(), 1);
        }
        assert_eq!(places[0], places[1]);
    }
}
