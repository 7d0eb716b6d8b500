//! A vault's keys, wrapped for one more recipient: somebody with an identity, or with a passphrase.
//!
//! What is in clear is needed to unlock it, and authenticated by what is sealed: a changed label or parameter is noticed by whoever
//! unlocks it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::bytes::{DecodeError, Reader, Writer};
use crate::container::{SealError, TAG_LEN};

/// What is wrapped: data key, signing seed, vault id.
pub const SECRET_LEN: usize = 32 + 32 + 16;
/// Most bytes in a label.
pub const MAX_LABEL: usize = 128;
/// Most bytes of an encoded recipient.
pub const MAX_RECIPIENT: usize = 4096;
const MAX_PUBLIC: usize = 256;
const MAX_WRAPPED: usize = 2048;
const MAGIC: &[u8; 8] = b"HOLDKEY1";

/// Who can unlock the vault, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub vault: Uuid,
    /// The data key that is wrapped.
    pub key: Uuid,
    pub id: Uuid,
    /// Microseconds since 1970-01-01 UTC.
    pub created_at: i64,
    /// What people call it.
    pub label: String,
    pub wrap: Wrap,
}

/// Where the wrapping key comes from. It is used for this one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// It is in an age file for this recipient (`age1...`).
    Identity { public: String, wrapped: Vec<u8> },
    /// Argon2id makes it of a passphrase.
    Passphrase(Argon2id),
}

/// Parameters of Argon2id, version 19, with an output of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2id {
    /// 8 MiB to 1 GiB.
    pub memory_kib: u32,
    /// 1 to 16.
    pub passes: u32,
    /// 1 to 16.
    pub lanes: u32,
    pub salt: [u8; 16],
}

/// A recipient as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRecipient {
    pub recipient: Recipient,
    /// Everything before what is sealed.
    clear: Vec<u8>,
    sealed: Vec<u8>,
}

impl Recipient {
    /// Wraps the secret with the wrapping key.
    ///
    /// # Errors
    /// Never for a recipient within its limits.
    pub fn seal(&self, wrapping: &[u8; 32], secret: &[u8; SECRET_LEN]) -> Result<Vec<u8>, SealError> {
        let mut out = self.encode();
        let mut sealed = Zeroizing::new(secret.to_vec());
        let tag = cipher(wrapping)
            .and_then(|key| key.seal_in_place_separate_tag(nonce(), Aad::from(&out), &mut sealed).ok())
            .ok_or(SealError)?;
        out.extend_from_slice(&sealed);
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(MAGIC);
        out.uuid(self.vault);
        out.uuid(self.key);
        out.uuid(self.id);
        out.i64(self.created_at);
        out.string(&self.label);
        match &self.wrap {
            Wrap::Identity { public, wrapped } => {
                out.u8(1);
                out.string(public);
                out.count(wrapped.len());
                out.raw(wrapped);
            }
            Wrap::Passphrase(Argon2id { memory_kib, passes, lanes, salt }) => {
                out.u8(2);
                out.u32(*memory_kib);
                out.u32(*passes);
                out.u32(*lanes);
                out.raw(salt);
            }
        }
        out.into_bytes()
    }
}

impl Argon2id {
    /// Whether a reader may spend so much.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        (8 << 10..=1 << 20).contains(&self.memory_kib)
            && (1..=16).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }
}

impl SealedRecipient {
    /// # Errors
    /// If it is none, or asks for more than a reader spends. Whether it is true is known when it was opened.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "a recipient";
        let out_of_range = DecodeError::OutOfRange { what: WHAT };
        if bytes.len() > MAX_RECIPIENT {
            return Err(out_of_range);
        }
        let mut reader = Reader::new(bytes);
        if reader.raw(MAGIC.len(), WHAT)? != MAGIC {
            return Err(DecodeError::NotHoldfast);
        }
        let (vault, key, id) = (reader.uuid(WHAT)?, reader.uuid(WHAT)?, reader.uuid(WHAT)?);
        let created_at = reader.i64(WHAT)?;
        let label = reader.string(MAX_LABEL, "a label")?;
        let wrap = match reader.u8(WHAT)? {
            1 => {
                let public = reader.string(MAX_PUBLIC, "an identity")?;
                let len = reader.count(1, "a wrapped key")?;
                if len > MAX_WRAPPED {
                    return Err(DecodeError::OutOfRange { what: "a wrapped key" });
                }
                Wrap::Identity { public, wrapped: reader.raw(len, "a wrapped key")?.to_vec() }
            }
            2 => {
                const WHAT: &str = "the parameters of a passphrase";
                let (memory_kib, passes, lanes) = (reader.u32(WHAT)?, reader.u32(WHAT)?, reader.u32(WHAT)?);
                let argon = Argon2id { memory_kib, passes, lanes, salt: reader.array(WHAT)? };
                if !argon.is_bounded() {
                    return Err(DecodeError::OutOfRange { what: WHAT });
                }
                Wrap::Passphrase(argon)
            }
            _ => return Err(out_of_range),
        };
        let clear = bytes[..bytes.len() - reader.remaining()].to_vec();
        let sealed = reader.raw(SECRET_LEN + TAG_LEN, "the keys")?.to_vec();
        reader.finish()?;
        Ok(Self { recipient: Recipient { vault, key, id, created_at, label, wrap }, clear, sealed })
    }

    /// Unwraps the secret.
    ///
    /// # Errors
    /// [`DecodeError::Sealed`] if the wrapping key is another, or anything of the recipient was changed.
    pub fn open(&self, wrapping: &[u8; 32]) -> Result<Zeroizing<[u8; SECRET_LEN]>, DecodeError> {
        const SEALED: DecodeError = DecodeError::Sealed { what: "the keys" };
        let mut sealed = Zeroizing::new(self.sealed.clone());
        let key = cipher(wrapping).ok_or(SEALED)?;
        let plain = key.open_in_place(nonce(), Aad::from(&self.clear), &mut sealed).map_err(|_| SEALED)?;
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        if plain.len() != SECRET_LEN {
            return Err(SEALED);
        }
        secret.copy_from_slice(plain);
        Ok(secret)
    }
}

fn cipher(wrapping: &[u8; 32]) -> Option<LessSafeKey> {
    let key = Zeroizing::new(blake3::derive_key("Holdfast vault v1 recipient key", wrapping));
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).ok()?))
}

/// The wrapping key is used once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipients() -> [Recipient; 2] {
        let wraps = [
            Wrap::Identity { public: "age1abc".to_owned(), wrapped: vec![7; 40] },
            Wrap::Passphrase(Argon2id { memory_kib: 8 << 10, passes: 2, lanes: 16, salt: [5; 16] }),
        ];
        wraps.map(|wrap| Recipient {
            vault: Uuid::from_u128(1),
            key: Uuid::from_u128(2),
            id: Uuid::from_u128(3),
            created_at: -4,
            label: "safe".to_owned(),
            wrap,
        })
    }

    #[test]
    fn what_is_wrapped_comes_back() {
        for recipient in recipients() {
            let bytes = recipient.seal(&[9; 32], &[6; SECRET_LEN]).unwrap();
            let sealed = SealedRecipient::decode(&bytes).unwrap();
            assert_eq!(sealed.recipient, recipient);
            assert_eq!(*sealed.open(&[9; 32]).unwrap(), [6; SECRET_LEN]);
            assert!(sealed.open(&[8; 32]).is_err());
        }
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        for recipient in recipients() {
            let bytes = recipient.seal(&[9; 32], &[6; SECRET_LEN]).unwrap();
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    let opened = SealedRecipient::decode(&changed).and_then(|sealed| sealed.open(&[9; 32]));
                    assert!(opened.is_err(), "byte {at}");
                }
                assert!(SealedRecipient::decode(&bytes[..at]).is_err(), "cut at {at}");
            }
            assert_eq!(
                SealedRecipient::decode(&[&bytes[..], &[0]].concat()),
                Err(DecodeError::Trailing { count: 1 })
            );
        }
    }

    #[test]
    fn what_costs_too_much_is_refused() {
        let [_, recipient] = recipients();
        for (memory_kib, passes, lanes, good) in [
            (8 << 10, 1, 1, true),
            (1 << 20, 16, 16, true),
            ((8 << 10) - 1, 1, 1, false),
            ((1 << 20) + 1, 1, 1, false),
            (8 << 10, 0, 1, false),
            (8 << 10, 17, 1, false),
            (8 << 10, 1, 0, false),
            (8 << 10, 1, 17, false),
            (u32::MAX, u32::MAX, u32::MAX, false),
        ] {
            let wrap = Wrap::Passphrase(Argon2id { memory_kib, passes, lanes, salt: [0; 16] });
            let bytes = Recipient { wrap, ..recipient.clone() }.seal(&[9; 32], &[6; SECRET_LEN]).unwrap();
            assert_eq!(SealedRecipient::decode(&bytes).is_ok(), good, "{memory_kib} {passes} {lanes}");
        }
        let long = Recipient { label: "x".repeat(MAX_LABEL + 1), ..recipient };
        assert!(SealedRecipient::decode(&long.seal(&[9; 32], &[6; SECRET_LEN]).unwrap()).is_err());
        assert!(SealedRecipient::decode(&vec![0; MAX_RECIPIENT + 1]).is_err());
    }

    #[test]
    fn to_the_byte() {
        let [identity, passphrase] = recipients();
        let clear = |kind: &[u8]| {
            let ids = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
            let ids = ids.map(|id| *id.as_bytes()).concat();
            [&b"HOLDKEY1"[..], &ids, &(-4_i64).to_le_bytes(), b"\x04safe", kind].concat()
        };
        assert_eq!(identity.encode(), clear(&[&b"\x01\x07age1abc\x28"[..], &[7; 40]].concat()));
        assert_eq!(
            passphrase.encode(),
            clear(&[&[2, 0, 0x20, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0][..], &[5; 16]].concat())
        );
    }
}
