//! The bodies of `open/` and `points/` objects.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use uuid::Uuid;

use crate::bytes::{DecodeError, Reader, Writer};
use crate::delta::MetaPlace;

const MAX_NAME: usize = 256;
const MAX_REASON: usize = 1024;
const SIGNATURE_LEN: usize = 64;

/// How consistent a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    Application,
    FileSystem,
    Crash,
}

/// A point by its sequence number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointRef {
    pub seq: u64,
    pub hash: [u8; 32],
}

/// The first object of a backup: from now on nothing that it builds on may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub machine: Uuid,
    pub seq: u64,
    pub snapshot: Uuid,
    pub step: Uuid,
    pub attempt: i64,
    pub base: Option<PointRef>,
    /// Earlier backups without a point whose segments this one takes over.
    pub adopted: Vec<u64>,
    /// The largest number under which something was condemned when it began; 0 before the first.
    pub epoch: u64,
}

/// Why a backup has no point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    pub machine: Uuid,
    pub seq: u64,
    pub reason: String,
}

/// The commit of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub id: Uuid,
    pub machine: Uuid,
    pub machine_name: String,
    pub seq: u64,
    /// Microseconds since 1970, UTC.
    pub created_at: i64,
    pub taken_at: i64,
    pub consistency: Consistency,
    pub snapshot: Uuid,
    pub step: Uuid,
    pub attempt: i64,
    pub previous: Option<PointRef>,
    pub disks: Vec<PointDisk>,
}

/// One disk of a point. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointDisk {
    pub name: String,
    pub size_bytes: u64,
    pub read_bytes: u64,
    pub changed_bytes: u64,
    pub sent_bytes: u64,
    pub stored_bytes: u64,
    /// Newest first.
    pub stack: Vec<DeltaRef>,
}

/// A delta, committed to by the hash of its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaRef {
    /// The backup that wrote it.
    pub seq: u64,
    pub hash: [u8; 32],
    /// The parts of its encoded root, in order.
    pub parts: Vec<MetaPlace>,
}

impl Open {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uuid(self.machine);
        out.u64(self.seq);
        out.uuid(self.snapshot);
        out.uuid(self.step);
        out.i64(self.attempt);
        write_ref(&mut out, self.base);
        out.count(self.adopted.len());
        for seq in &self.adopted {
            out.u64(*seq);
        }
        out.u64(self.epoch);
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (machine, seq) = (reader.uuid("the machine")?, reader.u64("the sequence number")?);
        let (snapshot, step) = (reader.uuid("the snapshot")?, reader.uuid("the step")?);
        let attempt = reader.i64("the attempt")?;
        let base = read_ref(&mut reader)?;
        let count = reader.count(8, "the adopted backups")?;
        let adopted = (0..count).map(|_| reader.u64("an adopted backup")).collect::<Result<_, _>>()?;
        let epoch = reader.u64("the epoch")?;
        reader.finish()?;
        Ok(Self { machine, seq, snapshot, step, attempt, base, adopted, epoch })
    }
}

impl Abort {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uuid(self.machine);
        out.u64(self.seq);
        out.string(&self.reason[..self.reason.floor_char_boundary(MAX_REASON)]);
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (machine, seq) = (reader.uuid("the machine")?, reader.u64("the sequence number")?);
        let reason = reader.string(MAX_REASON, "the reason")?;
        reader.finish()?;
        Ok(Self { machine, seq, reason })
    }
}

impl Point {
    /// The bytes that are hashed and signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        for id in [self.id, self.machine, self.snapshot, self.step] {
            out.uuid(id);
        }
        out.i64(self.attempt);
        out.string(&self.machine_name);
        out.u64(self.seq);
        out.i64(self.created_at);
        out.i64(self.taken_at);
        out.u8(match self.consistency {
            Consistency::Application => 1,
            Consistency::FileSystem => 2,
            Consistency::Crash => 3,
        });
        write_ref(&mut out, self.previous);
        out.count(self.disks.len());
        for disk in &self.disks {
            out.string(&disk.name);
            for bytes in
                [disk.size_bytes, disk.read_bytes, disk.changed_bytes, disk.sent_bytes, disk.stored_bytes]
            {
                out.u64(bytes);
            }
            out.count(disk.stack.len());
            for delta in &disk.stack {
                out.u64(delta.seq);
                out.raw(&delta.hash);
                out.count(delta.parts.len());
                for part in &delta.parts {
                    out.varint(u64::from(part.segment));
                    out.varint(u64::from(part.cell));
                }
            }
        }
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut id = |what| reader.uuid(what);
        let (id, machine, snapshot, step) =
            (id("the id")?, id("the machine")?, id("the snapshot")?, id("the step")?);
        let attempt = reader.i64("the attempt")?;
        let machine_name = reader.string(MAX_NAME, "the machine's name")?;
        let seq = reader.u64("the sequence number")?;
        let created_at = reader.i64("the time")?;
        let taken_at = reader.i64("the time")?;
        let consistency = match reader.u8("the consistency")? {
            1 => Consistency::Application,
            2 => Consistency::FileSystem,
            3 => Consistency::Crash,
            _ => return Err(DecodeError::OutOfRange { what: "the consistency" }),
        };
        let previous = read_ref(&mut reader)?;
        let count = reader.count(42, "the disks")?;
        let disks = (0..count).map(|_| decode_disk(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self {
            id,
            machine,
            machine_name,
            seq,
            created_at,
            taken_at,
            consistency,
            snapshot,
            step,
            attempt,
            previous,
            disks,
        })
    }

    /// The point's hash: BLAKE3 of its encoding.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }
}

fn decode_disk(reader: &mut Reader<'_>) -> Result<PointDisk, DecodeError> {
    let name = reader.string(MAX_NAME, "a disk's name")?;
    let size_bytes = reader.disk_size()?;
    let mut bytes = || reader.u64("a number of bytes");
    let (read_bytes, changed_bytes, sent_bytes, stored_bytes) = (bytes()?, bytes()?, bytes()?, bytes()?);
    let count = reader.count(41, "the deltas")?;
    let mut stack = Vec::with_capacity(count);
    for _ in 0..count {
        let (seq, hash) = (reader.u64("a delta")?, reader.array("a delta's hash")?);
        let parts = reader.count(2, "a delta's parts")?;
        let mut number = || {
            u32::try_from(reader.varint("a part")?).map_err(|_| DecodeError::OutOfRange { what: "a part" })
        };
        let parts = (0..parts)
            .map(|_| Ok(MetaPlace { segment: number()?, cell: number()? }))
            .collect::<Result<_, DecodeError>>()?;
        stack.push(DeltaRef { seq, hash, parts });
    }
    Ok(PointDisk { name, size_bytes, read_bytes, changed_bytes, sent_bytes, stored_bytes, stack })
}

fn write_ref(out: &mut Writer, reference: Option<PointRef>) {
    match reference {
        None => out.u8(0),
        Some(PointRef { seq, hash }) => {
            out.u8(1);
            out.u64(seq);
            out.raw(&hash);
        }
    }
}

fn read_ref(reader: &mut Reader<'_>) -> Result<Option<PointRef>, DecodeError> {
    match reader.u8("a point")? {
        0 => Ok(None),
        1 => Ok(Some(PointRef { seq: reader.u64("a point")?, hash: reader.array("a point's hash")? })),
        _ => Err(DecodeError::OutOfRange { what: "a point" }),
    }
}

/// Signs points; made from a 32-byte seed.
pub struct Signer(Ed25519KeyPair);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        key
    }

    /// The body of a point object: the encoding and a signature of it.
    #[must_use]
    pub fn sign(&self, point: &Point) -> Vec<u8> {
        self.sign_encoded(point.encode())
    }

    /// An encoding followed by its signature.
    pub(crate) fn sign_encoded(&self, mut body: Vec<u8>) -> Vec<u8> {
        let signature = self.0.sign(&body);
        body.extend_from_slice(signature.as_ref());
        body
    }
}

/// Checks the signature of a point's body and reads it.
pub fn verify(body: &[u8], public_key: &[u8; 32]) -> Result<Point, DecodeError> {
    Point::decode(verify_encoded(body, public_key)?)
}

/// The encoding that a signature follows.
pub(crate) fn verify_encoded<'a>(body: &'a [u8], public_key: &[u8; 32]) -> Result<&'a [u8], DecodeError> {
    let at = body.len().checked_sub(SIGNATURE_LEN).ok_or(DecodeError::Truncated { what: "the signature" })?;
    let (encoded, signature) = body.split_at(at);
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(encoded, signature)
        .map_err(|_| DecodeError::Signature)?;
    Ok(encoded)
}
