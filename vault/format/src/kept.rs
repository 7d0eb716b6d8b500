//! Cells of which some blocks were given up. What is left is still checked against the hash of the whole cell: BLAKE3 is a tree, and
//! in the place of what was given up the cell keeps the nodes over it.

use std::borrow::Cow;
use std::slice::ChunksExact;

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::block::BLOCK_SIZE;
use crate::bytes::DecodeError;
use crate::cell::{CellError, Codec, MAX_CELL_BLOCKS, cell_hash, decode_cell, encode_cell_into};

/// Bytes of a node of the tree.
const NODE: usize = 32;

/// Which blocks of a cell are kept: bit n stands for block n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blocks(pub u32);

impl Blocks {
    /// The first `count` ones.
    #[must_use]
    pub fn first(count: usize) -> Self {
        Self(
            u32::MAX
                .checked_shr(u32::try_from(MAX_CELL_BLOCKS.saturating_sub(count)).unwrap_or(u32::MAX))
                .unwrap_or(0),
        )
    }

    /// So many from block `first` on.
    #[must_use]
    pub fn run(first: u32, count: u64) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Self(Self::first(count).0.checked_shl(first).unwrap_or(0))
    }

    #[must_use]
    pub fn has_all(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    #[must_use]
    pub fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// How many of them lie before this block.
    #[must_use]
    pub fn before(self, block: u32) -> u32 {
        (self.0 & Self::run(0, u64::from(block)).0).count_ones()
    }

    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What is left of a cell, compared with its hash.
#[derive(Debug)]
pub struct Kept<'a> {
    blocks: Blocks,
    nodes: &'a [u8],
    /// The kept blocks one after the other, as they are stored.
    pub data: &'a [u8],
    /// The same, decoded.
    pub plain: Cow<'a, [u8]>,
}

impl<'a> Kept<'a> {
    /// All of a cell.
    #[must_use]
    pub fn whole(plain: &'a [u8]) -> Self {
        let blocks = Blocks::first(plain.len() / BLOCK_SIZE);
        Self { blocks, nodes: &[], data: plain, plain: Cow::Borrowed(plain) }
    }

    /// Takes apart the bytes of a cell of so many plain bytes, of which only `blocks` are left, and checks them against the hash of the
    /// whole.
    ///
    /// # Errors
    /// If they do not decode, or are not those that the whole cell had.
    pub fn decode(
        codec: Codec,
        plain_len: u32,
        blocks: Blocks,
        hash: &[u8; 32],
        stored: &'a [u8],
    ) -> Result<Self, KeptError> {
        let whole = Part::whole(plain_len as usize / BLOCK_SIZE);
        let (nodes, data) = stored
            .split_at_checked(whole.given_up(blocks) * NODE)
            .ok_or(KeptError::Format { source: DecodeError::Truncated { what: "a cell's nodes" } })?;
        if blocks.is_empty() {
            return if stored.is_empty() {
                Ok(Self { blocks, nodes, data, plain: Cow::default() })
            } else {
                Err(KeptError::Format { source: DecodeError::OutOfRange { what: "a cell without blocks" } })
            };
        }
        let left = u32::try_from(blocks.count() * BLOCK_SIZE).unwrap_or(u32::MAX);
        let plain = decode_cell(codec, left, data).map_err(|source| KeptError::Cell { source })?;
        let kept = Self { blocks, nodes, data, plain };
        if kept.tree().root(whole).as_ref() == Some(hash) {
            Ok(kept)
        } else {
            Err(KeptError::Format { source: DecodeError::Hash { what: "a cell" } })
        }
    }

    /// Gives up all blocks but `kept`, which are among those that are there. Answers how they are encoded, and the cell's bytes.
    /// `plain_len`: of the whole cell.
    #[must_use]
    pub fn encode(&self, plain_len: u32, kept: Blocks, level: i32) -> (Codec, Vec<u8>) {
        if kept.is_empty() {
            return (Codec::Raw, Vec::new());
        }
        let (mut out, mut left) = (Vec::new(), Vec::with_capacity(kept.count() * BLOCK_SIZE));
        self.tree().narrow(Part::whole(plain_len as usize / BLOCK_SIZE), kept, &mut out, &mut left);
        (encode_cell_into(&left, level, &mut out), out)
    }

    fn tree(&self) -> Tree<'_> {
        Tree {
            kept: self.blocks,
            nodes: self.nodes.chunks_exact(NODE),
            blocks: self.plain.chunks_exact(BLOCK_SIZE),
        }
    }
}

/// What is left of a cell is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("what is left of a cell cannot be taken apart")]
    Format { source: DecodeError },
    #[error("what is left of a cell cannot be decoded")]
    Cell { source: CellError },
}

/// Blocks under one node of the tree.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: usize,
    count: usize,
}

impl Part {
    fn whole(count: usize) -> Self {
        Self { first: 0, count }
    }

    fn blocks(self) -> Blocks {
        Blocks::run(u32::try_from(self.first).unwrap_or(u32::MAX), self.count as u64)
    }

    /// Bytes of the cell before it.
    fn offset(self) -> u64 {
        (self.first * BLOCK_SIZE) as u64
    }

    /// The left one is the largest power of two that leaves something, as BLAKE3 has it.
    fn halves(self) -> (Self, Self) {
        let left = self.count.next_power_of_two() / 2;
        (Self { first: self.first, count: left }, Self { first: self.first + left, count: self.count - left })
    }

    fn has_none(self, kept: Blocks) -> bool {
        kept.0 & self.blocks().0 == 0
    }

    /// The largest parts of which nothing is kept: there is a node for each.
    fn given_up(self, kept: Blocks) -> usize {
        if kept.is_empty() || kept.has_all(self.blocks()) {
            return 0;
        }
        if self.has_none(kept) {
            return 1;
        }
        let (left, right) = self.halves();
        left.given_up(kept) + right.given_up(kept)
    }
}

/// The tree over a cell, from what is left: its parts are asked for in order, each once.
struct Tree<'a> {
    kept: Blocks,
    nodes: ChunksExact<'a, u8>,
    blocks: ChunksExact<'a, u8>,
}

impl Tree<'_> {
    fn root(&mut self, whole: Part) -> Option<[u8; 32]> {
        if self.kept.has_all(whole.blocks()) {
            return Some(cell_hash(&self.take(whole)));
        }
        let (left, right) = whole.halves();
        let (left, right) = (self.node(left)?, self.node(right)?);
        Some(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
    }

    /// The node over a part that is not the whole cell.
    fn node(&mut self, part: Part) -> Option<ChainingValue> {
        if part.has_none(self.kept) {
            return self.nodes.next()?.try_into().ok();
        }
        if self.kept.has_all(part.blocks()) {
            let plain = self.take(part);
            let mut hasher = Hasher::new();
            return Some(hasher.set_input_offset(part.offset()).update(&plain).finalize_non_root());
        }
        let (left, right) = part.halves();
        let (left, right) = (self.node(left)?, self.node(right)?);
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }

    /// Takes apart what `kept` gives up and what it leaves.
    fn narrow(&mut self, part: Part, kept: Blocks, nodes: &mut Vec<u8>, left: &mut Vec<u8>) {
        if part.has_none(kept) {
            nodes.extend(self.node(part).unwrap_or_default());
        } else if kept.has_all(part.blocks()) {
            left.extend(self.take(part));
        } else {
            let (first, second) = part.halves();
            self.narrow(first, kept, nodes, left);
            self.narrow(second, kept, nodes, left);
        }
    }

    fn take(&mut self, part: Part) -> Vec<u8> {
        self.blocks.by_ref().take(part.count).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::MAX_CELL_BYTES;
    use proptest::prelude::*;

    fn noise(blocks: usize) -> Vec<u8> {
        rand::random_iter().take(blocks * BLOCK_SIZE).collect()
    }

    fn len(blocks: usize) -> u32 {
        u32::try_from(blocks * BLOCK_SIZE).unwrap()
    }

    #[test]
    fn sets_of_blocks() {
        assert_eq!(Blocks::first(0), Blocks(0));
        assert_eq!(Blocks::first(3), Blocks(0b111));
        assert_eq!(Blocks::first(MAX_CELL_BLOCKS), Blocks(u32::MAX));
        assert_eq!(Blocks::run(4, 2), Blocks(0b11_0000));
        assert_eq!(Blocks::run(31, 1), Blocks(1 << 31));
        assert!(Blocks::run(32, 1).is_empty() && Blocks::run(0, 0).is_empty());
        assert_eq!(Blocks(0b110).with(Blocks(0b011)), Blocks(0b111));
        assert_eq!([0, 2, 3, 40].map(|block| Blocks(0b1110).before(block)), [0, 1, 2, 3]);
        assert!(Blocks(0b110).has_all(Blocks(0b10)) && !Blocks(0b110).has_all(Blocks(0b11)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Cells of every size, with any blocks kept.
        #[test]
        fn what_is_kept_reads_back(blocks in 1_usize..=32, kept: u32, less: u32, thin: bool) {
            let kept = Blocks(kept & Blocks::first(blocks).0);
            let plain = if thin { vec![7; blocks * BLOCK_SIZE] } else { noise(blocks) };
            let hash = cell_hash(&plain);
            let (codec, stored) = Kept::whole(&plain).encode(len(blocks), kept, 1);
            let read = Kept::decode(codec, len(blocks), kept, &hash, &stored).unwrap();
            let expected: Vec<u8> = plain
                .chunks(BLOCK_SIZE)
                .enumerate()
                .filter(|(block, _)| kept.0 & 1 << block != 0)
                .flat_map(|(_, bytes)| bytes.to_vec())
                .collect();
            prop_assert_eq!(&*read.plain, &expected[..]);
            if !kept.is_empty() {
                prop_assert_eq!(&*decode_cell(codec, len(kept.count()), read.data).unwrap(), &expected[..]);
                // Whatever was given up first.
                let fewer = Blocks(kept.0 & less);
                let (_, twice) = read.encode(len(blocks), fewer, 1);
                prop_assert_eq!(twice, Kept::whole(&plain).encode(len(blocks), fewer, 1).1);
                // No more nodes than there have to be: fewer bytes than the cell had.
                prop_assert!(stored.len() <= expected.len() + blocks.div_ceil(2) * NODE);
            }
        }

        #[test]
        fn every_change_is_seen(blocks in 2_usize..=32, kept: u32, at: prop::sample::Index, bit in 0_u32..8) {
            let kept = Blocks(kept & Blocks::first(blocks).0 | 2);
            let plain = noise(blocks);
            let hash = cell_hash(&plain);
            let (codec, mut stored) = Kept::whole(&plain).encode(len(blocks), kept, 1);
            let at = at.index(stored.len());
            stored[at] ^= 1 << bit;
            prop_assert!(Kept::decode(codec, len(blocks), kept, &hash, &stored).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(stored: Vec<u8>, plain_len in 1_u32..=32, kept: u32) {
            for codec in [Codec::Raw, Codec::Zstd] {
                let _ = Kept::decode(codec, plain_len * 4096, Blocks(kept), &[0; 32], &stored);
            }
        }
    }

    #[test]
    fn other_blocks_than_were_kept_are_refused() {
        let plain = noise(32);
        let hash = cell_hash(&plain);
        let (codec, stored) = Kept::whole(&plain).encode(len(32), Blocks(0xff00), 1);
        let max = u32::try_from(MAX_CELL_BYTES).unwrap();
        assert!(Kept::decode(codec, max, Blocks(0xff00), &hash, &stored).is_ok());
        for kept in [0x00ff, 0xff_0000, 0xff01, 0, u32::MAX] {
            assert!(Kept::decode(codec, max, Blocks(kept), &hash, &stored).is_err(), "{kept:x}");
        }
        assert!(Kept::decode(codec, max, Blocks(0xff00), &cell_hash(&plain[1..]), &stored).is_err());
    }
}
