use holdfast_vault_format::{BLOCK_SIZE, Codec, Extent, cell_hash, decode_cell_in};

use crate::{ContentError, RestoreError, Target};

/// A cell as it came.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    pub codec: Codec,
    /// Length after decoding.
    pub plain_bytes: u32,
    pub plain_hash: &'a [u8],
    pub data: &'a [u8],
    /// Its first block of those that are wanted, and where they belong.
    pub pieces: &'a [(u32, Extent)],
}

impl Target {
    /// Decodes a cell, compares it with its hash and writes its pieces; answers how many blocks that were. `memory` is used for one
    /// cell after the other.
    ///
    /// # Errors
    /// If it is not what it is said to be, or cannot be written.
    pub fn write_cell(&self, cell: &Cell<'_>, memory: &mut Vec<u8>) -> Result<u64, RestoreError> {
        let first_block = cell.pieces.first().map_or(0, |(_, extent)| extent.first_block);
        let first_byte = first_block.saturating_mul(BLOCK_SIZE as u64);
        let plain = decode_cell_in(cell.codec, cell.plain_bytes, cell.data, memory)
            .map_err(|source| ContentError::Cell { first_byte, source })?;
        if cell_hash(plain) != cell.plain_hash {
            return Err(ContentError::Hash { first_byte }.into());
        }
        let mut blocks = 0;
        for (cell_block, extent) in cell.pieces {
            let content = bytes_of(*cell_block, extent.block_count)
                .and_then(|range| plain.get(range))
                .ok_or(ContentError::Piece)?;
            self.write(extent.first_block, content)?;
            blocks += extent.block_count;
        }
        Ok(blocks)
    }
}

fn bytes_of(cell_block: u32, block_count: u64) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(cell_block).ok()?.checked_mul(BLOCK_SIZE)?;
    let len = usize::try_from(block_count).ok()?.checked_mul(BLOCK_SIZE)?;
    Some(start..start.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use holdfast_vault_format::encode_cell;

    use super::*;
    use crate::Existing;

    #[test]
    fn a_cell_is_written_where_its_pieces_belong_if_it_is_what_it_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let target = Target::create(&path, 3 * BLOCK_SIZE as u64, Existing::Keep).unwrap();
        let plain: Vec<u8> = [[1; BLOCK_SIZE], [2; BLOCK_SIZE]].concat();
        let hash = cell_hash(&plain);
        let (codec, data) = encode_cell(plain, 1);
        let at = |first_block| Extent { first_block, block_count: 1 };
        let pieces = [(1, at(0)), (0, at(2))];
        let cell = Cell { codec, plain_bytes: 8192, plain_hash: &hash, data: &data, pieces: &pieces };
        let refused = |cell: Cell<'_>| match target.write_cell(&cell, &mut Vec::new()) {
            Err(RestoreError::Content(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(Cell { plain_hash: &[0; 32], ..cell }),
            "a cell at byte 0 does not match its hash"
        );
        assert_eq!(
            refused(Cell { plain_hash: &hash[..31], ..cell }),
            "a cell at byte 0 does not match its hash"
        );
        assert_eq!(refused(Cell { plain_bytes: 4096, ..cell }), "a cell at byte 0 does not decode");
        for block in [2, u32::MAX] {
            assert_eq!(refused(Cell { pieces: &[(block, at(1))], ..cell }), "a piece outside its cell");
        }
        let endless = [(0, Extent { first_block: 0, block_count: u64::MAX })];
        assert_eq!(refused(Cell { pieces: &endless, ..cell }), "a piece outside its cell");
        assert_eq!(target.write_cell(&cell, &mut Vec::new()).unwrap(), 2);
        target.zeros(at(1)).unwrap();
        target.finish().unwrap();
        let expected = [[2; BLOCK_SIZE], [0; BLOCK_SIZE], [1; BLOCK_SIZE]].concat();
        assert!(std::fs::read(&path).unwrap() == expected);
    }
}
