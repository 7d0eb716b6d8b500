//! Writing pages of deltas into the open segment, so that a small backup is one segment.

use std::sync::Arc;

use holdfast_vault_format::delta::{MetaPlace, PageRef};
use holdfast_vault_format::segment::MAX_META_BYTES;

use crate::Receipt;
use crate::VaultError;
use crate::backup::Shared;

use super::entry::Entry;

/// A page ends at so many entries or hashes, whichever comes first: at most some 900 KiB.
const PAGE_ENTRIES: usize = 16 << 10;
const PAGE_HASHES: usize = 64 << 10;

/// Pages of one kind of a delta: each is written when it is full.
pub(super) struct Pages<T> {
    shared: Arc<Shared>,
    page: Vec<T>,
    hashes: usize,
    written: Written,
}

/// Pages that are in segments.
pub(super) struct Written {
    pub(super) pages: Vec<PageRef>,
    pub(super) entries: u64,
}

impl<T: Entry> Pages<T> {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let written = Written { pages: Vec::new(), entries: 0 };
        Self { shared, page: Vec::new(), hashes: 0, written }
    }

    /// Adds what comes next in block order.
    pub(super) async fn push(&mut self, entry: T) -> Result<(), VaultError> {
        let hashes = entry.hashes();
        if self.page.len() >= PAGE_ENTRIES || self.hashes + hashes > PAGE_HASHES {
            self.write().await?;
        }
        self.hashes += hashes;
        let entry = match self.page.last_mut() {
            Some(last) => last.join(entry),
            None => Some(entry),
        };
        self.page.extend(entry);
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Written, VaultError> {
        self.write().await?;
        Ok(self.written)
    }

    async fn write(&mut self) -> Result<(), VaultError> {
        let (Some(first), Some(last)) = (self.page.first(), self.page.last()) else { return Ok(()) };
        let (first_block, end_block) = (first.first(), last.end());
        self.written.entries += self.page.len() as u64;
        let (place, hash) = write_meta(&self.shared, T::encode(&self.page)).await?;
        self.page.clear();
        self.hashes = 0;
        self.written.pages.push(PageRef { first_block, end_block, place, hash });
        Ok(())
    }
}

/// Writes a part of a delta once there is room for one.
pub(super) async fn write_meta(
    shared: &Arc<Shared>,
    bytes: Vec<u8>,
) -> Result<(MetaPlace, [u8; 32]), VaultError> {
    if bytes.len() > MAX_META_BYTES {
        return Err(VaultError::mismatch("a delta", "one of its pages is too large"));
    }
    shared.room().await?;
    let shared = Arc::clone(shared);
    let write = move || {
        let mut guard = shared.state();
        let state = &mut *guard;
        state.check_uploads()?;
        let open = shared.open_segment(state, &mut Receipt::default())?;
        let (cell, hash) = open.writer.meta(&bytes)?;
        let place = MetaPlace { segment: open.writer.id.number, cell };
        shared.seal_if_full(state)?;
        Ok((place, hash))
    };
    crate::blocking(write).await
}

#[cfg(test)]
pub(super) mod tests;
