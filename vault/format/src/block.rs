use highway::{HighwayHash as _, HighwayHasher, Key};

/// The largest disk, in bytes: what files and databases can count. So no position on a disk overflows, its last block included.
pub const MAX_DISK_BYTES: u64 = i64::MAX as u64;

/// The unit of change, in bytes.
pub const BLOCK_SIZE: usize = 4096;

/// A run of blocks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    pub first_block: u64,
    /// At least 1.
    pub block_count: u64,
}

impl Extent {
    /// The block after the last one; `None` for an extent that no disk can have.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.first_block.checked_add(self.block_count)
    }
}

/// Number of blocks that hold so many bytes.
#[must_use]
pub fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_SIZE as u64)
}

/// Tells at memory speed whether a block is the same as it was: HighwayHash-64 under a key that is never written on the
/// machine, so that nobody can prepare two blocks with one hash.
///
/// A block of zeros has the hash 0, and nothing else has.
#[derive(Clone)]
pub struct BlockHasher {
    key: Key,
}

impl BlockHasher {
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let mut words = [0_u64; 4];
        for (word, bytes) in words.iter_mut().zip(key.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { key: Key(words) }
    }

    /// Hashes one block.
    #[must_use]
    pub fn hash(&self, block: &[u8]) -> u64 {
        debug_assert_eq!(block.len(), BLOCK_SIZE);
        if is_zero(block) {
            return 0;
        }
        HighwayHasher::new(self.key).hash64(block).max(1)
    }
}

impl std::fmt::Debug for BlockHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockHasher")
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zeros_hash_to_zero_and_the_key_matters() {
        let (one, other) = (BlockHasher::new(&[1; 32]), BlockHasher::new(&[2; 32]));
        assert_eq!(one.hash(&[0; BLOCK_SIZE]), 0);
        for at in [0, 63, 64, 4095] {
            let mut block = [0; BLOCK_SIZE];
            block[at] = 1;
            assert!(!is_zero(&block));
            assert_ne!(one.hash(&block), 0);
            assert_ne!(one.hash(&block), other.hash(&block));
        }
    }

    #[test]
    fn zeros_are_told_in_every_length() {
        for len in [0, 1, 63, 64, 65, 130, BLOCK_SIZE] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
            // Bits that would cancel each other.
            bytes.fill(1);
            assert_eq!(is_zero(&bytes), len == 0, "{len}");
        }
    }

    #[test]
    fn extents_end_and_bytes_fill_blocks() {
        let end = |first_block, block_count| Extent { first_block, block_count }.end();
        assert_eq!(end(3, 4), Some(7));
        assert_eq!(end(u64::MAX, 1), None);
        assert_eq!([0, 1, 4096, 4097, u64::MAX].map(blocks_of), [0, 1, 1, 2, 1 << 52]);
    }
}
