//! Real objects: two backups of two disks, by the engine.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use holdfast_vault_engine::{
    BLOCK_SIZE, Backup, BeginBackup, Begun, Consistency, DiskSpec, Extent, NewCell, Vault, encode_cell,
};
use holdfast_vault_format::DecodeError;
use holdfast_vault_format::container::{FOOTER_LEN, Kind, Opener, Sealer, open_record, seal_record};
use holdfast_vault_format::record::{Open, PointRef, verify};
use holdfast_vault_format::segment::{Directory, decode_table};
use uuid::Uuid;

use crate::vault::{MACHINE, Objects, block_on, open, ring, sealed_objects, signer};

/// Blocks of each disk.
pub const BLOCKS: u64 = 24;

/// Every sealed object of a vault with two points and a backup that is open.
pub static OBJECTS: LazyLock<Objects> = LazyLock::new(|| {
    let (store, vault) = open(Vec::new());
    block_on(async {
        commit(&vault, 1, &[(0, 6, 1), (6, 18, 0)]).await;
        commit(&vault, 2, &[(3, 2, 7), (9, 1, 0)]).await;
        let backup = begin(&vault, request(3, BLOCKS)).await;
        push(&backup, "a", &[(1, 2, 9), (20, 2, 0)]).await;
        backup.flush().await.expect("memory stores everything");
    });
    let mut previous = None;
    let reseal = |(index, (name, bytes)): (usize, (String, Vec<u8>))| {
        let bytes = reseal(&name, &bytes, [u8::try_from(index).expect("few"); 32], &mut previous);
        (name, bytes)
    };
    sealed_objects(&store).into_iter().enumerate().map(reseal).collect()
});

/// The same object without what is random in it, so that it is the same in each process.
fn reseal(name: &str, bytes: &[u8], salt: [u8; 32], previous: &mut Option<PointRef>) -> Vec<u8> {
    let opener = Opener::new(&ring(), name, bytes).expect("it is the vault's");
    if opener.kind != Kind::Segment {
        let (kind, mut body) = open_record(&ring(), name, bytes).expect("it opens");
        if kind == Kind::Point {
            let mut point = verify(&body, &signer().public_key()).expect("it is signed");
            (point.id, point.created_at) = (Uuid::from_u128(point.seq.into()), point.taken_at + 1);
            point.previous = *previous;
            *previous = Some(PointRef { seq: point.seq, hash: point.hash() });
            body = signer().sign(&point);
        } else if kind == Kind::Open {
            let mut open = Open::decode(&body).expect("it is one");
            open.base = open.base.map(|base| PointRef { hash: [1; 32], ..base });
            body = open.encode();
        }
        return seal_record(&ring(), kind, name, salt, &body).expect("it can be sealed");
    }
    let parts = Parts::open(name, bytes).expect("it opens");
    let mut sealer = Sealer::new(&ring(), Kind::Segment, name, salt, Vec::new()).expect("it can be sealed");
    for (entry, cell) in parts.directory.cells.iter().zip(&parts.cells) {
        sealer.cell(entry.codec_byte(), entry.plain_len, cell).expect("it can be sealed");
    }
    sealer.finish(&parts.table, &parts.directory.encode()).expect("it can be sealed")
}

/// What a segment holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts {
    pub directory: Directory,
    /// Encoded.
    pub table: Vec<u8>,
    /// Encoded as the directory says.
    pub cells: Vec<Vec<u8>>,
}

impl Parts {
    /// Opens every part of a segment, as a reader does.
    ///
    /// # Errors
    /// Of the first part that does not open.
    pub fn open(name: &str, bytes: &[u8]) -> Result<Self, DecodeError> {
        let opener = Opener::new(&ring(), name, bytes)?;
        let tail_at =
            bytes.len().checked_sub(FOOTER_LEN).ok_or(DecodeError::Truncated { what: "the footer" })?;
        let layout = opener.footer(&bytes[tail_at..], bytes.len() as u64)?;
        // A layout that was accepted lies in the object: nothing of this is out of range.
        let at = |offset: u64| usize::try_from(offset).expect("it lies in the object");
        let body = opener.body(bytes[at(layout.body_at)..tail_at].to_vec())?;
        let table = opener.table(bytes[at(layout.table_at)..at(layout.body_at)].to_vec())?;
        let directory = Directory::decode(&body)?;
        decode_table(&table, &directory)?;
        let mut cells = Vec::new();
        for (number, (entry, ends)) in (0..).zip(directory.cells.iter().zip(directory.offsets().windows(2))) {
            let stored = bytes[at(ends[0])..at(ends[1])].to_vec();
            cells.push(opener.cell(number, entry.codec_byte(), entry.plain_len, stored)?);
        }
        Ok(Self { directory, table, cells })
    }
}

#[must_use]
pub fn request(attempt: i64, blocks: u64) -> BeginBackup {
    let disk = |name: &str, cut: u64| DiskSpec {
        name: name.to_owned(),
        size_bytes: (blocks * BLOCK_SIZE as u64).saturating_sub(cut),
    };
    BeginBackup {
        machine: MACHINE,
        machine_name: "web1".to_owned(),
        snapshot_id: Uuid::from_u128(20),
        step_id: Uuid::from_u128(21),
        attempt,
        consistency: Consistency::FileSystem,
        taken_at: DateTime::<Utc>::from_timestamp_micros(1_700_000_000_123_456).expect("a time"),
        disks: vec![disk("a", 0), disk("b", 1000)],
        at_least_seq: 0,
        damaged: Vec::new(),
    }
}

pub async fn begin(vault: &Vault, request: BeginBackup) -> Backup {
    match vault.begin(request).await.expect("it begins") {
        Begun::Open(backup) => backup,
        Begun::AlreadyCommitted(_) => panic!("attempts have numbers of their own"),
    }
}

async fn commit(vault: &Vault, attempt: i64, runs: &[(u64, u64, u8)]) {
    let backup = begin(vault, request(attempt, BLOCKS)).await;
    for disk in ["a", "b"] {
        push(&backup, disk, runs).await;
    }
    let prepared = backup.prepare(&[("a".to_owned(), 4096)]).await.expect("every block was sent");
    prepared.commit().await.expect("nobody else commits");
}

/// Sends runs of blocks: first block, number, and what they are filled with.
pub async fn push(backup: &Backup, disk: &str, runs: &[(u64, u64, u8)]) {
    for (first_block, block_count, fill) in runs {
        let extent = Extent { first_block: *first_block, block_count: *block_count };
        if *fill == 0 {
            backup.push(disk, Vec::new(), vec![extent]).await.expect("it is a good frame");
            continue;
        }
        let cell = cell(extent, *fill);
        backup.push(disk, vec![cell], Vec::new()).await.expect("it is a good frame");
    }
}

/// A cell of one extent.
#[must_use]
pub fn cell(extent: Extent, fill: u8) -> NewCell {
    let plain = plain(extent.block_count, fill);
    let (codec, data) = encode_cell(plain.clone(), 1);
    NewCell {
        codec,
        plain_bytes: u32::try_from(plain.len()).expect("few blocks"),
        extents: vec![extent],
        data: data.into(),
    }
}

/// Blocks that differ from each other.
#[must_use]
pub fn plain(blocks: u64, fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; usize::try_from(blocks).expect("few blocks") * BLOCK_SIZE];
    for (block, bytes) in (1_u64..).zip(bytes.chunks_mut(BLOCK_SIZE)) {
        bytes[..8].copy_from_slice(&block.to_le_bytes());
    }
    bytes
}
