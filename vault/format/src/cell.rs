use std::borrow::Cow;
use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

use crate::block::BLOCK_SIZE;

/// Most blocks in a cell.
pub const MAX_CELL_BLOCKS: usize = 32;
/// Most plain bytes in a cell: the unit of compression, sealing and integrity.
pub const MAX_CELL_BYTES: usize = MAX_CELL_BLOCKS * BLOCK_SIZE;

/// How the bytes of a cell are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Raw,
    /// One zstd frame.
    Zstd,
}

/// The bytes of a cell are not what they are said to be.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    #[error("a cell of {plain_bytes} bytes: it must be 1 to 32 blocks of 4096")]
    Size { plain_bytes: u32 },
    #[error("a cell of {plain_bytes} bytes is {stored} bytes long: encoding must not enlarge it")]
    Enlarged { plain_bytes: u32, stored: usize },
    #[error("a cell does not decode")]
    Decode { source: std::io::Error },
    #[error("a cell decodes to {actual} bytes instead of {expected}")]
    Length { expected: usize, actual: usize },
}

thread_local! {
    // To make one of them costs a tenth of what it does for a cell: more than a MiB to be allocated and cleared.
    static COMPRESSOR: RefCell<Option<Packer>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

struct Packer {
    level: i32,
    compressor: Compressor<'static>,
    /// Room for what the largest cell may become.
    packed: Vec<u8>,
}

impl Packer {
    fn new(level: i32) -> io::Result<Self> {
        let packed = Vec::with_capacity(compress_bound(MAX_CELL_BYTES));
        Ok(Self { level, compressor: Compressor::new(level)?, packed })
    }

    fn pack(&mut self, plain: &[u8]) -> io::Result<&[u8]> {
        self.packed.clear();
        self.packed.reserve(compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.packed)?;
        Ok(&self.packed)
    }
}

/// Compresses the blocks of a cell; they stay as they are when that gains less than a sixteenth.
#[must_use]
pub fn encode_cell(plain: impl AsRef<[u8]>, level: i32) -> (Codec, Vec<u8>) {
    let mut data = Vec::new();
    (encode_cell_into(plain.as_ref(), level, &mut data), data)
}

/// The same, appended to `into`.
pub fn encode_cell_into(plain: &[u8], level: i32, into: &mut Vec<u8>) -> Codec {
    COMPRESSOR.with_borrow_mut(|kept| {
        let packer = match kept {
            Some(packer) if packer.level == level => Ok(packer),
            _ => Packer::new(level).map(|packer| kept.insert(packer)),
        };
        match packer.and_then(|packer| packer.pack(plain)) {
            Ok(packed) if packed.len() <= plain.len() - plain.len() / 16 => {
                into.extend_from_slice(packed);
                Codec::Zstd
            }
            _ => {
                into.extend_from_slice(plain);
                Codec::Raw
            }
        }
    })
}

/// Decodes a cell to exactly `plain_bytes`, whatever the bytes are: a frame that holds more is refused, not unpacked.
///
/// # Errors
/// If the size is not that of a cell, or the bytes do not decode to it.
pub fn decode_cell(codec: Codec, plain_bytes: u32, data: &[u8]) -> Result<Cow<'_, [u8]>, CellError> {
    let mut memory = Vec::new();
    decode_cell_in(codec, plain_bytes, data, &mut memory)?;
    // It has the size of this cell now.
    Ok(if codec == Codec::Raw { Cow::Borrowed(data) } else { Cow::Owned(memory) })
}

/// The same in memory that is used for one cell after the other: fresh memory costs as much as decoding. A raw cell is not
/// copied.
///
/// # Errors
/// As [`decode_cell`].
pub fn decode_cell_in<'a>(
    codec: Codec,
    plain_bytes: u32,
    data: &'a [u8],
    memory: &'a mut Vec<u8>,
) -> Result<&'a [u8], CellError> {
    let expected = plain_bytes as usize;
    if expected == 0 || expected > MAX_CELL_BYTES || !expected.is_multiple_of(BLOCK_SIZE) {
        return Err(CellError::Size { plain_bytes });
    }
    // Padding that decodes to nothing would make objects that no reader accepts.
    if data.len() > expected {
        return Err(CellError::Enlarged { plain_bytes, stored: data.len() });
    }
    let plain = match codec {
        Codec::Raw => data,
        Codec::Zstd => {
            if memory.len() < expected {
                memory.resize(expected, 0);
            }
            let room = &mut memory[..expected];
            let actual = unpack(data, room).map_err(|source| CellError::Decode { source })?;
            &room[..actual]
        }
    };
    if plain.len() == expected { Ok(plain) } else { Err(CellError::Length { expected, actual: plain.len() }) }
}

fn unpack(data: &[u8], into: &mut [u8]) -> io::Result<usize> {
    DECOMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(decompressor) => decompressor.decompress_to_buffer(data, into),
        None => kept.insert(Decompressor::new()?).decompress_to_buffer(data, into),
    })
}

/// BLAKE3 of a cell's plain bytes.
#[must_use]
pub fn cell_hash(plain: &[u8]) -> [u8; 32] {
    *blake3::hash(plain).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(plain: &[u8]) -> (Codec, Vec<u8>) {
        let (codec, data) = encode_cell(plain, 1);
        let mut appended = b"before".to_vec();
        assert_eq!(encode_cell_into(plain, 1, &mut appended), codec);
        assert_eq!(appended, [b"before", data.as_slice()].concat());
        (codec, data)
    }

    #[test]
    fn round_trip_and_the_raw_fallback() {
        let text = vec![7; MAX_CELL_BYTES];
        let (codec, data) = encoded(&text);
        assert_eq!(codec, Codec::Zstd);
        assert_eq!(decode_cell(codec, 131_072, &data).unwrap(), text);
        let noise: Vec<u8> = rand::random_iter().take(BLOCK_SIZE).collect();
        assert_eq!(encoded(&noise).0, Codec::Raw);
    }

    /// From all noise to all zeros: what compression gains passes every value on the way.
    #[test]
    fn cells_stay_raw_unless_a_sixteenth_is_gained() {
        let mut plain: Vec<u8> = rand::random_iter().take(BLOCK_SIZE).collect();
        let mut gains = std::collections::BTreeSet::new();
        for at in 0..600 {
            let gain = 4096 - zstd::bulk::compress(&plain, 1).unwrap().len().min(4096);
            let (codec, data) = encoded(&plain);
            assert_eq!(codec, if gain >= 256 { Codec::Zstd } else { Codec::Raw }, "{gain}");
            assert_eq!(decode_cell(codec, 4096, &data).unwrap(), plain);
            gains.insert(gain);
            plain[at] = 0;
        }
        assert!(gains.contains(&255) && gains.contains(&256), "{gains:?}");
    }

    #[test]
    fn only_what_has_the_size_of_a_cell_is_decoded() {
        for plain_bytes in [0, 1, 4095, 4097, 131_072 + 4096] {
            let data = vec![0; plain_bytes as usize];
            let refused = decode_cell(Codec::Raw, plain_bytes, &data);
            assert!(matches!(refused, Err(CellError::Size { .. })), "{plain_bytes}: {refused:?}");
        }
        let most = vec![1; MAX_CELL_BYTES];
        assert_eq!(decode_cell(Codec::Raw, 131_072, &most).unwrap(), most);
        let short = decode_cell(Codec::Raw, 8192, &[1; 4096]);
        assert!(matches!(short, Err(CellError::Length { expected: 8192, actual: 4096 })), "{short:?}");
        let (codec, data) = encoded(&[7; BLOCK_SIZE]);
        let short = decode_cell(codec, 8192, &data);
        assert!(matches!(short, Err(CellError::Length { expected: 8192, actual: 4096 })), "{short:?}");
        assert!(matches!(decode_cell(Codec::Zstd, 4096, b"no zstd"), Err(CellError::Decode { .. })));
    }

    /// What is left of one cell does not show in the next, smaller one.
    #[test]
    fn memory_is_used_again() {
        let mut memory = Vec::new();
        for (blocks, byte) in [(32, 1), (1, 2), (7, 3)] {
            let plain = vec![byte; blocks * BLOCK_SIZE];
            let (codec, data) = encoded(&plain);
            let plain_bytes = u32::try_from(plain.len()).unwrap();
            assert_eq!(decode_cell_in(codec, plain_bytes, &data, &mut memory).unwrap(), plain);
            let longer = decode_cell_in(codec, plain_bytes + 4096, &data, &mut memory);
            assert!(longer.is_err(), "{longer:?}");
        }
        assert!(memory.len() <= MAX_CELL_BYTES);
    }

    #[test]
    fn padding_is_refused() {
        let (codec, mut data) = encoded(&[7; BLOCK_SIZE]);
        data.extend_from_slice(&0x184d_2a50_u32.to_le_bytes());
        data.extend_from_slice(&8192_u32.to_le_bytes());
        data.resize(data.len() + 8192, 0);
        assert!(matches!(decode_cell(codec, 4096, &data), Err(CellError::Enlarged { .. })));
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        // Longer than it may be, stored too: made shorter, it is refused because of what it would become.
        let refused = decode_cell(Codec::Zstd, 4096, &bomb);
        assert!(matches!(refused, Err(CellError::Decode { .. })), "{refused:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data: Vec<u8>, plain_bytes: u32) {
            for codec in [Codec::Raw, Codec::Zstd] {
                if let Ok(plain) = decode_cell(codec, plain_bytes, &data) {
                    prop_assert_eq!(plain.len(), plain_bytes as usize);
                }
            }
        }
    }
}
