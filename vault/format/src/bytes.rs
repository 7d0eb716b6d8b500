//! Little-endian fields, LEB128 numbers, length-prefixed strings: written by [`Writer`], read by [`Reader`], which
//! never believes a length.

use uuid::Uuid;

use crate::block::MAX_DISK_BYTES;

/// What was read is not what this format writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it ends in the middle of {what}")]
    Truncated { what: &'static str },
    #[error("{what} is out of range")]
    OutOfRange { what: &'static str },
    #[error("{count} bytes follow its end")]
    Trailing { count: usize },
    #[error("it is not an object of Holdfast, or of a newer version")]
    NotHoldfast,
    #[error("it belongs to another vault")]
    ForeignVault,
    #[error("it was sealed with a key that this vault does not have")]
    UnknownKey,
    #[error("its key commitment does not match")]
    Commitment,
    #[error("{what} does not authenticate")]
    Sealed { what: &'static str },
    #[error("{what} does not match its commitment")]
    Hash { what: &'static str },
    #[error("its signature is not the vault's")]
    Signature,
}

#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    pub fn uuid(&mut self, id: Uuid) {
        self.raw(id.as_bytes());
    }
    /// LEB128, at most 10 bytes.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }
    pub fn count(&mut self, count: usize) {
        self.varint(count as u64);
    }
    pub fn string(&mut self, text: &str) {
        self.count(text.len());
        self.raw(text.as_bytes());
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn raw(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }
    pub fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }
    /// The size of a disk, in bytes.
    pub fn disk_size(&mut self) -> Result<u64, DecodeError> {
        let what = "a disk's size";
        Some(self.u64(what)?).filter(|size| *size <= MAX_DISK_BYTES).ok_or(DecodeError::OutOfRange { what })
    }
    pub fn uuid(&mut self, what: &'static str) -> Result<Uuid, DecodeError> {
        Ok(Uuid::from_bytes(self.array(what)?))
    }

    /// LEB128 in its shortest form.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::OutOfRange { what });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A longer form of the same number would make two encodings, and two hashes, of one thing.
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(value) } else { Err(DecodeError::OutOfRange { what }) };
            }
        }
        Err(DecodeError::OutOfRange { what })
    }

    /// A count of things that take at least `least_bytes` each: more than what is left can hold is refused before anything
    /// is allocated for them.
    pub fn count(&mut self, least_bytes: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint(what)?).map_err(|_| DecodeError::OutOfRange { what })?;
        match count.checked_mul(least_bytes.max(1)) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::OutOfRange { what }),
        }
    }

    pub fn string(&mut self, longest: usize, what: &'static str) -> Result<String, DecodeError> {
        let len = self.count(1, what)?;
        if len > longest {
            return Err(DecodeError::OutOfRange { what });
        }
        let bytes = self.raw(len, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::OutOfRange { what })
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::Trailing { count }),
        }
    }

    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_has_one_form() {
        for (bytes, value) in [(&[0_u8][..], 0), (&[0x7f], 127), (&[0x80, 1], 128), (&[0xff, 0x7f], 16_383)] {
            assert_eq!(Reader::new(bytes).varint("n"), Ok(value));
        }
        let too_large = [[0xff; 9].as_slice(), &[2]].concat();
        for bytes in [&[0x80_u8, 0][..], &[0xff, 0], &[0x80, 0x80, 0], &[0x80; 10], &[0xff; 11], &too_large] {
            assert_eq!(
                Reader::new(bytes).varint("n"),
                Err(DecodeError::OutOfRange { what: "n" }),
                "{bytes:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn varints_read_back(value: u64) {
            let mut writer = Writer::new();
            writer.varint(value);
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint("n"), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn a_count_never_exceeds_what_is_there(bytes: Vec<u8>) {
            let len = bytes.len();
            if let Ok(count) = Reader::new(&bytes).count(8, "n") {
                prop_assert!(count * 8 <= len);
            }
        }
    }
}
