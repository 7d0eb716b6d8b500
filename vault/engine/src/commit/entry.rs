//! What pages of deltas consist of.

use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{HashRun, Place, Placed, encode_extents, encode_hashes};

/// Runs of hashes are not joined beyond so many blocks.
const JOINED_HASHES: usize = 4096;

/// Something about consecutive blocks.
pub(super) trait Entry: Sized + Send + 'static {
    fn extent(&self) -> Extent;

    /// Keeps what lies before block `at`, which lies inside, and answers the rest.
    fn split(&mut self, at: u64) -> Self;

    /// Goes on with `next` if both can be one entry; otherwise gives it back.
    fn join(&mut self, next: Self) -> Option<Self>;

    /// How many hashes it takes along.
    fn hashes(&self) -> usize;

    fn encode(page: &[Self]) -> Vec<u8>;

    fn first(&self) -> u64 {
        self.extent().first_block
    }

    fn end(&self) -> u64 {
        self.extent().first_block + self.extent().block_count
    }
}

impl Entry for Placed {
    fn extent(&self) -> Extent {
        self.extent
    }

    fn split(&mut self, at: u64) -> Self {
        let (head, tail) = split(self.extent, at);
        self.extent = head;
        Self { extent: tail, place: self.place.skip(head.block_count) }
    }

    fn join(&mut self, next: Self) -> Option<Self> {
        let goes_on = match (self.place, next.place) {
            (Place::Zero, Place::Zero) => true,
            (Place::Cell { .. }, place) => self.place.skip(self.extent.block_count) == place,
            _ => false,
        };
        if self.end() != next.first() || !goes_on {
            return Some(next);
        }
        self.extent.block_count += next.extent.block_count;
        None
    }

    fn hashes(&self) -> usize {
        0
    }

    fn encode(page: &[Self]) -> Vec<u8> {
        encode_extents(page)
    }
}

impl Entry for HashRun {
    fn extent(&self) -> Extent {
        self.extent
    }

    fn split(&mut self, at: u64) -> Self {
        let (head, tail) = split(self.extent, at);
        self.extent = head;
        let keep = usize::try_from(head.block_count).unwrap_or(usize::MAX).min(self.hashes.len());
        Self { extent: tail, hashes: self.hashes.split_off(keep) }
    }

    fn join(&mut self, next: Self) -> Option<Self> {
        let alike = self.hashes.is_empty() == next.hashes.is_empty();
        let small = self.hashes.len() + next.hashes.len() <= JOINED_HASHES;
        if self.end() != next.first() || !alike || !small {
            return Some(next);
        }
        self.extent.block_count += next.extent.block_count;
        self.hashes.extend_from_slice(&next.hashes);
        None
    }

    fn hashes(&self) -> usize {
        self.hashes.len()
    }

    fn encode(page: &[Self]) -> Vec<u8> {
        encode_hashes(page)
    }
}

fn split(extent: Extent, at: u64) -> (Extent, Extent) {
    let Extent { first_block, block_count } = extent;
    let keep = at - first_block;
    (Extent { first_block, block_count: keep }, Extent { first_block: at, block_count: block_count - keep })
}

#[cfg(test)]
mod tests;
