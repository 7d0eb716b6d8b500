//! Reading cells.

use std::borrow::Cow;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use holdfast_vault_format::kept::{Blocks, Kept};
use holdfast_vault_format::segment::{CellKind, CellRef};
use holdfast_vault_format::{Codec, DecodeError, cell_hash, decode_cell};

use crate::error::chain;
use crate::{Vault, VaultError, object};

use super::{Copies, Segment, SegmentId};

/// Cells that lie together, as they are stored.
#[derive(Clone, Debug)]
pub(crate) struct StoredCells {
    pub(crate) segment: Arc<Segment>,
    start: u64,
    bytes: Bytes,
}

impl Vault {
    /// Reads a cell that holds these blocks, of the first generation of which it can be opened.
    pub(crate) async fn read_cell<T>(
        &self,
        id: SegmentId,
        cell: u32,
        blocks: Blocks,
        open: impl Fn(&StoredCells) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let mut copies = Copies::of(self, id);
        while let Some(segment) = copies.next().await? {
            if !copies.holds(&segment, cell, blocks)? {
                continue;
            }
            let copy = segment.id;
            let stored = StoredCells::read(self, segment, cell..=cell).await;
            match stored.and_then(|stored| open(&stored)) {
                Ok(opened) => return Ok(opened),
                Err(error) => copies.refuse(copy, error)?,
            }
        }
        Err(copies.error())
    }

    /// Reads one meta cell and checks it against `hash`, if what refers to it commits to it cell by cell.
    pub(crate) async fn meta_cell(
        &self,
        id: SegmentId,
        cell: u32,
        hash: Option<[u8; 32]>,
    ) -> Result<Vec<u8>, VaultError> {
        let open = |stored: &StoredCells| {
            let segment = &stored.segment;
            let entry = segment.entry(cell)?;
            if entry.kind != CellKind::Meta || hash.is_some_and(|hash| hash != entry.hash) {
                return Err(VaultError::mismatch(
                    &segment.name,
                    format!("cell {cell} is not the one referred to"),
                ));
            }
            let plain = stored.open(cell)?;
            if cell_hash(&plain) != entry.hash {
                return Err(VaultError::damaged(&segment.name, DecodeError::Hash { what: "a cell" }));
            }
            Ok(plain)
        };
        self.read_cell(id, cell, Blocks(1), open).await
    }
}

impl StoredCells {
    /// Reads cells of exactly this segment.
    pub(crate) async fn read(
        vault: &Vault,
        segment: Arc<Segment>,
        cells: RangeInclusive<u32>,
    ) -> Result<Self, VaultError> {
        let (start, end) = (segment.range(*cells.start())?.start, segment.range(*cells.end())?.end);
        let bytes = object::read_range(vault.storage(), &segment.name, start..end).await?;
        Ok(Self { segment, start, bytes })
    }

    /// Stored bytes.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Authenticates a cell, which is among them; it is still encoded.
    pub(crate) fn open(&self, cell: u32) -> Result<Vec<u8>, VaultError> {
        let mut stored = self.bytes[self.place(cell)?].to_vec();
        let len = self.segment.open_cell(cell, &mut stored)?;
        stored.truncate(len);
        Ok(stored)
    }

    /// Authenticates these of the cells, in ascending order, where they are in memory. None is left to be opened again.
    pub(crate) fn open_in_place(&mut self, cells: &[u32]) -> Result<Vec<Bytes>, VaultError> {
        let places: Vec<Range<usize>> =
            cells.iter().map(|cell| self.place(*cell)).collect::<Result<_, VaultError>>()?;
        let mut stored = std::mem::take(&mut self.bytes).try_into_mut().unwrap_or_else(|shared| {
            // Somebody else reads them too.
            BytesMut::from(&shared[..])
        });
        let mut opened = Vec::with_capacity(cells.len());
        let mut at = 0;
        for (cell, Range { start, end }) in cells.iter().zip(places) {
            let mut bytes = stored.split_to(end.saturating_sub(at)).split_off(start.saturating_sub(at));
            at = end;
            let len = self.segment.open_cell(*cell, &mut bytes)?;
            bytes.truncate(len);
            opened.push(bytes.freeze());
        }
        Ok(opened)
    }

    /// Where a cell lies in what was read.
    fn place(&self, cell: u32) -> Result<Range<usize>, VaultError> {
        let range = self.segment.range(cell)?;
        let at = |offset: u64| usize::try_from(offset.checked_sub(self.start)?).ok();
        let place = at(range.start).zip(at(range.end)).map(|(start, end)| start..end);
        place
            .filter(|place| place.end <= self.bytes.len())
            .ok_or_else(|| VaultError::mismatch(&self.segment.name, format!("cell {cell} was not read")))
    }

    /// Decodes the bytes of a data cell and compares them with its hash.
    pub(crate) fn plain<'a>(
        &self,
        cell: u32,
        codec: Codec,
        data: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, VaultError> {
        let plain_len = self.segment.entry(cell)?.plain_len;
        let plain = decode_cell(codec, plain_len, data).map_err(|source| self.undecodable(cell, &source))?;
        self.compare(cell, &plain)?;
        Ok(plain)
    }

    /// Decodes what is left of a data cell and compares it with the cell's hash.
    pub(crate) fn kept<'a>(
        &self,
        cell: u32,
        codec: Codec,
        blocks: Blocks,
        data: &'a [u8],
    ) -> Result<Kept<'a>, VaultError> {
        let entry = self.segment.entry(cell)?;
        Kept::decode(codec, entry.plain_len, blocks, &entry.hash, data)
            .map_err(|source| self.undecodable(cell, &source))
    }

    /// Compares a cell with its hash.
    pub(crate) fn check(&self, cell: u32) -> Result<(), VaultError> {
        match self.segment.entry(cell)?.kind {
            CellKind::Data { codec, .. } => self.plain(cell, codec, &self.open(cell)?).map(drop),
            CellKind::Kept { codec, kept } => self.kept(cell, codec, kept, &self.open(cell)?).map(drop),
            CellKind::Zero { .. } | CellKind::Meta => self.compare(cell, &self.open(cell)?),
            // The bytes are those of another segment, which is looked at by itself.
            CellKind::Known { .. } => CellRef::decode(&self.open(cell)?)
                .map(drop)
                .map_err(|source| VaultError::damaged(&self.segment.name, source)),
            CellKind::Gone => self.open(cell).map(drop),
        }
    }

    fn compare(&self, cell: u32, plain: &[u8]) -> Result<(), VaultError> {
        if cell_hash(plain) == self.segment.entry(cell)?.hash {
            Ok(())
        } else {
            Err(VaultError::damaged(&self.segment.name, DecodeError::Hash { what: "a cell" }))
        }
    }

    fn undecodable(&self, cell: u32, source: &dyn std::error::Error) -> VaultError {
        VaultError::mismatch(&self.segment.name, format!("cell {cell} does not decode: {}", chain(source)))
    }
}
