use holdfast_vault_engine::{BLOCK_SIZE, Extent};

/// The content of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Image {
    pub(crate) fn zeros(size: usize) -> Self {
        Self(vec![0; size])
    }

    /// Incompressible, compressible and zero stretches, the same for the same seed.
    pub(crate) fn mixed(seed: u64, size: usize) -> Self {
        let mut image = Self::zeros(size);
        let mut random = Random(seed);
        let mut at = 0;
        while at < size {
            let end = (at + (1 + random.below(60)) * BLOCK_SIZE).min(size);
            match random.below(4) {
                0 => {}
                1 => image.0[at..end].fill(u8::try_from(1 + random.below(255)).unwrap()),
                _ => random.fill(&mut image.0[at..end]),
            }
            at = end;
        }
        image
    }

    /// Nothing that compresses.
    pub(crate) fn noise(seed: u64, size: usize) -> Self {
        let mut image = Self::zeros(size);
        Random(seed).fill(&mut image.0);
        image
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn blocks(&self) -> usize {
        self.0.len().div_ceil(BLOCK_SIZE)
    }

    /// A block, padded with zeros to its full length.
    pub(crate) fn block(&self, block: usize) -> Vec<u8> {
        let start = block * BLOCK_SIZE;
        let mut bytes = self.0[start..(start + BLOCK_SIZE).min(self.0.len())].to_vec();
        bytes.resize(BLOCK_SIZE, 0);
        bytes
    }

    /// Changes `count` scattered blocks, some of them to zeros.
    pub(crate) fn change(&mut self, seed: u64, count: usize) {
        let mut random = Random(seed);
        for _ in 0..count {
            let start = random.below(self.blocks()) * BLOCK_SIZE;
            let end = (start + BLOCK_SIZE).min(self.0.len());
            if random.below(5) == 0 {
                self.0[start..end].fill(0);
            } else {
                random.fill(&mut self.0[start..end]);
            }
        }
    }

    pub(crate) fn resize(&mut self, size: usize) {
        self.0.resize(size, 0);
    }

    /// Blocks that differ from `other`, those that only one of them has included.
    pub(crate) fn differing(&self, other: &Self) -> Vec<usize> {
        (0..self.blocks())
            .filter(|block| *block >= other.blocks() || self.block(*block) != other.block(*block))
            .collect()
    }
}

/// Joins blocks, in order, into extents.
pub(crate) fn extents(blocks: &[usize]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for block in blocks {
        match extents.last_mut() {
            Some(last) if last.first_block + last.block_count == *block as u64 => last.block_count += 1,
            _ => extents.push(Extent { first_block: *block as u64, block_count: 1 }),
        }
    }
    extents
}

/// Xorshift: repeatable content.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        let mut x = self.0 ^ 0x9e37_79b9_7f4a_7c15;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0 = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from((self.next() >> 11) % limit as u64).unwrap()
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&self.next().to_le_bytes()[..rest.len()]);
        }
    }
}
