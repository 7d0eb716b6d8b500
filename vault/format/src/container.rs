//! The one sealed format of every object: a clear header, sealed cells, a sealed table and body, a sealed footer.
//!
//! ```text
//!  header 112 | cell 0 .. cell n-1 | table | body | footer 44
//! ```
//! Every part is AES-256-GCM under the object's own key; its nonce is its number, and what it is authenticated with names
//! the vault, the object, the part and its lengths, so that nothing can stand in for anything else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use uuid::Uuid;

use crate::bytes::{DecodeError, Reader, Writer};
use crate::keys::DataKey;

pub const HEADER_LEN: usize = 112;
pub const TAG_LEN: usize = 16;
const FOOTER_PLAIN: usize = 28;
/// Sealed footer: always the last bytes of an object.
pub const FOOTER_LEN: usize = FOOTER_PLAIN + TAG_LEN;
const MAGIC: &[u8; 8] = b"HOLDFST1";
const VERSION: u8 = 1;

/// Numbers of the parts that are not cells.
const TABLE: u64 = u64::MAX - 2;
const BODY: u64 = u64::MAX - 1;
const FOOTER: u64 = u64::MAX;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Open = 1,
    Segment = 2,
    Point = 3,
    Abort = 4,
    Event = 5,
    Collection = 6,
    Condemned = 7,
    Collected = 8,
    Removal = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Abort, Collected, Collection, Condemned, Event, Open, Point, Removal, Segment};
        [Open, Segment, Point, Abort, Event, Collection, Condemned, Collected, Removal]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// What every object of a vault is sealed with.
#[derive(Clone, Debug)]
pub struct Keyring {
    pub vault: Uuid,
    pub key: DataKey,
}

/// The key and the identity of one object.
struct Sealing {
    key: LessSafeKey,
    /// Header and name: the part of the associated data that is the same for all parts.
    identity: Vec<u8>,
}

impl Sealing {
    fn new(
        ring: &Keyring,
        header: &[u8; HEADER_LEN],
        kind: Kind,
        salt: &[u8; 32],
        name: &str,
    ) -> Option<(Self, [u8; 32])> {
        let derived = ring.key.object_key(ring.vault, kind as u8, salt);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived.key).ok()?);
        let mut identity = Writer::new();
        identity.raw(header);
        identity.string(name);
        Some((Self { key, identity: identity.into_bytes() }, derived.commitment))
    }

    fn aad(&self, part: u64, codec: u8, plain_len: u32, stored_len: u32) -> Aad<Vec<u8>> {
        let mut aad = Writer::new();
        aad.raw(&self.identity);
        aad.u64(part);
        aad.u8(codec);
        aad.u32(plain_len);
        aad.u32(stored_len);
        Aad::from(aad.into_bytes())
    }

    fn nonce(part: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&part.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Appends `data` sealed to `out`. The key is this object's alone and every part has its own number, so no nonce repeats.
    fn seal(
        &self,
        out: &mut Vec<u8>,
        part: u64,
        codec: u8,
        plain_len: u32,
        data: &[u8],
    ) -> Result<u32, SealError> {
        let stored_len = u32::try_from(data.len() + TAG_LEN).map_err(|_| SealError)?;
        let start = out.len();
        out.extend_from_slice(data);
        let aad = self.aad(part, codec, plain_len, stored_len);
        let tag = self
            .key
            .seal_in_place_separate_tag(Self::nonce(part), aad, &mut out[start..])
            .map_err(|_| SealError)?;
        out.extend_from_slice(tag.as_ref());
        Ok(stored_len)
    }

    fn open(
        &self,
        part: u64,
        codec: u8,
        plain_len: u32,
        stored: &mut [u8],
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let stored_len = u32::try_from(stored.len()).map_err(|_| DecodeError::OutOfRange { what })?;
        let aad = self.aad(part, codec, plain_len, stored_len);
        let opened = self.key.open_in_place(Self::nonce(part), aad, stored);
        opened.map(|plain| plain.len()).map_err(|_| DecodeError::Sealed { what })
    }
}

/// An object could not be sealed: a part is larger than 4 GiB.
#[derive(Debug, thiserror::Error)]
#[error("a part of an object is too large to be sealed")]
pub struct SealError;

/// Writes one object.
pub struct Sealer {
    sealing: Sealing,
    out: Vec<u8>,
    /// Where the object begins in `out`.
    start: usize,
    cells: u32,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("cells", &self.cells)
            .field("len", &self.stored_len())
            .finish_non_exhaustive()
    }
}

impl Sealer {
    /// Starts an object at the end of `out`, under a fresh salt, which must come from the system's random source.
    pub fn new(
        ring: &Keyring,
        kind: Kind,
        name: &str,
        salt: [u8; 32],
        mut out: Vec<u8>,
    ) -> Result<Self, SealError> {
        let start = out.len();
        let commitment = ring.key.object_key(ring.vault, kind as u8, &salt).commitment;
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(MAGIC);
        header[8] = kind as u8;
        header[9] = VERSION;
        header[16..32].copy_from_slice(ring.vault.as_bytes());
        header[32..48].copy_from_slice(ring.key.id.as_bytes());
        header[48..80].copy_from_slice(&salt);
        header[80..112].copy_from_slice(&commitment);
        let (sealing, _) = Sealing::new(ring, &header, kind, &salt, name).ok_or(SealError)?;
        out.extend_from_slice(&header);
        Ok(Self { sealing, out, start, cells: 0 })
    }

    /// Appends a cell and answers its sealed length.
    pub fn cell(&mut self, codec: u8, plain_len: u32, data: &[u8]) -> Result<u32, SealError> {
        let stored = self.sealing.seal(&mut self.out, u64::from(self.cells), codec, plain_len, data)?;
        self.cells = self.cells.checked_add(1).ok_or(SealError)?;
        Ok(stored)
    }

    /// Bytes of the object so far.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Ends the object and answers what it was appended to.
    pub fn finish(mut self, table: &[u8], body: &[u8]) -> Result<Vec<u8>, SealError> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| SealError);
        let mut footer = Writer::new();
        footer.u64(self.stored_len() as u64);
        footer.u32(self.sealing.seal(&mut self.out, TABLE, 0, len(table)?, table)?);
        footer.u64(self.stored_len() as u64);
        footer.u32(self.sealing.seal(&mut self.out, BODY, 0, len(body)?, body)?);
        footer.u32(self.cells);
        let footer = footer.into_bytes();
        self.sealing.seal(&mut self.out, FOOTER, 0, len(&footer)?, &footer)?;
        Ok(self.out)
    }
}

/// Reads one object, part by part.
pub struct Opener {
    sealing: Sealing,
    pub kind: Kind,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Where the parts of an object are, by its footer. All within the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub table_at: u64,
    pub table_len: u32,
    pub body_at: u64,
    pub body_len: u32,
    pub cells: u32,
}

impl Opener {
    /// Checks the header of the object `name`.
    pub fn new(ring: &Keyring, name: &str, header: &[u8]) -> Result<Self, DecodeError> {
        let header: &[u8; HEADER_LEN] =
            header.first_chunk().ok_or(DecodeError::Truncated { what: "the header" })?;
        if &header[..8] != MAGIC || header[9] != VERSION || header[10..16] != [0; 6] {
            return Err(DecodeError::NotHoldfast);
        }
        let kind = Kind::from_byte(header[8]).ok_or(DecodeError::NotHoldfast)?;
        if header[16..32] != *ring.vault.as_bytes() {
            return Err(DecodeError::ForeignVault);
        }
        if header[32..48] != *ring.key.id.as_bytes() {
            return Err(DecodeError::UnknownKey);
        }
        let mut salt = [0; 32];
        salt.copy_from_slice(&header[48..80]);
        let (sealing, commitment) = Sealing::new(ring, header, kind, &salt, name)
            .ok_or(DecodeError::Sealed { what: "the header" })?;
        if header[80..112] != commitment {
            return Err(DecodeError::Commitment);
        }
        Ok(Self { sealing, kind })
    }

    /// Opens the last [`FOOTER_LEN`] bytes of an object of `object_len` bytes.
    pub fn footer(&self, tail: &[u8], object_len: u64) -> Result<Layout, DecodeError> {
        let mut tail = tail.to_vec();
        let len = self.sealing.open(FOOTER, 0, plain_len(&tail, "the footer")?, &mut tail, "the footer")?;
        tail.truncate(len);
        let mut reader = Reader::new(&tail);
        let layout = Layout {
            table_at: reader.u64("the footer")?,
            table_len: reader.u32("the footer")?,
            body_at: reader.u64("the footer")?,
            body_len: reader.u32("the footer")?,
            cells: reader.u32("the footer")?,
        };
        reader.finish()?;
        let in_order = layout.table_at >= HEADER_LEN as u64
            && layout.table_at.checked_add(u64::from(layout.table_len)) == Some(layout.body_at)
            && layout.body_at.checked_add(u64::from(layout.body_len) + FOOTER_LEN as u64) == Some(object_len);
        if in_order { Ok(layout) } else { Err(DecodeError::OutOfRange { what: "the footer" }) }
    }

    /// Opens the table's stored bytes.
    pub fn table(&self, mut stored: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
        let plain = plain_len(&stored, "the table")?;
        let len = self.sealing.open(TABLE, 0, plain, &mut stored, "the table")?;
        stored.truncate(len);
        Ok(stored)
    }

    /// Opens the body's stored bytes.
    pub fn body(&self, mut stored: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
        let plain = plain_len(&stored, "the body")?;
        let len = self.sealing.open(BODY, 0, plain, &mut stored, "the body")?;
        stored.truncate(len);
        Ok(stored)
    }

    /// Opens the stored bytes of a cell; they are still encoded.
    pub fn cell(
        &self,
        number: u32,
        codec: u8,
        plain_len: u32,
        mut stored: Vec<u8>,
    ) -> Result<Vec<u8>, DecodeError> {
        let len = self.cell_in_place(number, codec, plain_len, &mut stored)?;
        stored.truncate(len);
        Ok(stored)
    }

    /// The same where the bytes are. Answers how many of them there are then; an error leaves them useless.
    pub fn cell_in_place(
        &self,
        number: u32,
        codec: u8,
        plain_len: u32,
        stored: &mut [u8],
    ) -> Result<usize, DecodeError> {
        self.sealing.open(u64::from(number), codec, plain_len, stored, "a cell")
    }
}

fn plain_len(stored: &[u8], what: &'static str) -> Result<u32, DecodeError> {
    stored
        .len()
        .checked_sub(TAG_LEN)
        .and_then(|len| u32::try_from(len).ok())
        .ok_or(DecodeError::Truncated { what })
}

/// Seals an object that is nothing but a body.
pub fn seal_record(
    ring: &Keyring,
    kind: Kind,
    name: &str,
    salt: [u8; 32],
    body: &[u8],
) -> Result<Vec<u8>, SealError> {
    Sealer::new(ring, kind, name, salt, Vec::with_capacity(HEADER_LEN + body.len() + 256))?.finish(&[], body)
}

/// Opens a whole object that is nothing but a body; answers what it is and the body.
pub fn open_record(ring: &Keyring, name: &str, bytes: &[u8]) -> Result<(Kind, Vec<u8>), DecodeError> {
    let opener = Opener::new(ring, name, bytes)?;
    let tail_at = bytes.len().checked_sub(FOOTER_LEN).ok_or(DecodeError::Truncated { what: "the footer" })?;
    let layout = opener.footer(&bytes[tail_at..], bytes.len() as u64)?;
    if layout.cells != 0 || layout.table_at != HEADER_LEN as u64 {
        return Err(DecodeError::OutOfRange { what: "the footer" });
    }
    let body_at = HEADER_LEN + layout.table_len as usize;
    opener.table(bytes[HEADER_LEN..body_at].to_vec())?;
    Ok((opener.kind, opener.body(bytes[body_at..tail_at].to_vec())?))
}
