//! A delta: what one backup, or some in a row, changed on one disk. Its root names pages; a reader loads only the pages that
//! it needs.

use uuid::Uuid;

use crate::block::Extent;
use crate::bytes::{DecodeError, Reader, Writer};

/// A cell of a segment of the delta's own backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaPlace {
    pub segment: u32,
    pub cell: u32,
}

/// A page of a delta, committed to by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// The blocks that the page speaks of lie in `first_block..end_block`; pages are in order and do not overlap.
    pub first_block: u64,
    pub end_block: u64,
    pub place: MetaPlace,
    pub hash: [u8; 32],
}

/// A segment that cells of a delta are in, committed to by its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// The machine whose backup wrote it, if that is not the delta's own.
    pub lender: Option<Uuid>,
    pub seq: u64,
    pub number: u32,
    pub generation: u32,
    pub root: [u8; 32],
}

/// The root of a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaRoot {
    pub size_bytes: u64,
    /// How many the pages hold: what decides when deltas are merged.
    pub extents: u64,
    pub segments: Vec<SegmentRef>,
    /// Pages of [`Placed`] extents.
    pub extent_pages: Vec<PageRef>,
    /// Pages of [`HashRun`]s.
    pub hash_pages: Vec<PageRef>,
}

/// Where changed blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Zero,
    /// Consecutive blocks of a cell.
    Cell {
        segment: u32,
        cell: u32,
        cell_block: u32,
    },
}

impl Place {
    /// The place of what lies so many blocks further on.
    #[must_use]
    pub fn skip(self, blocks: u64) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Cell { segment, cell, cell_block } => {
                let moved = u32::try_from(blocks).unwrap_or(u32::MAX);
                Self::Cell { segment, cell, cell_block: cell_block.saturating_add(moved) }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub extent: Extent,
    pub place: Place,
}

/// Hashes of consecutive changed blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashRun {
    pub extent: Extent,
    /// One per block; none for blocks of zeros.
    pub hashes: Vec<u64>,
}

impl DeltaRoot {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u64(self.size_bytes);
        out.u64(self.extents);
        out.count(self.segments.len());
        for segment in &self.segments {
            out.varint(segment.seq);
            out.varint(u64::from(segment.number));
            out.varint(u64::from(segment.generation));
            out.raw(&segment.root);
        }
        for pages in [&self.extent_pages, &self.hash_pages] {
            out.count(pages.len());
            for page in pages {
                out.varint(page.first_block);
                out.varint(page.end_block);
                out.varint(u64::from(page.place.segment));
                out.varint(u64::from(page.place.cell));
                out.raw(&page.hash);
            }
        }
        let lent = || (0_u64..).zip(&self.segments).filter_map(|(at, segment)| Some((at, segment.lender?)));
        if lent().next().is_some() {
            out.count(lent().count());
            let mut next = 0;
            for (at, lender) in lent() {
                out.varint(at - next);
                out.uuid(lender);
                next = at + 1;
            }
        }
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let size_bytes = reader.disk_size()?;
        let extents = reader.u64("the number of extents")?;
        let count = reader.count(35, "the segments")?;
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            segments.push(SegmentRef {
                lender: None,
                seq: reader.varint("a segment")?,
                number: small(&mut reader, "a segment")?,
                generation: small(&mut reader, "a segment")?,
                root: reader.array("a segment's root")?,
            });
        }
        let extent_pages = decode_pages(&mut reader)?;
        let hash_pages = decode_pages(&mut reader)?;
        if reader.remaining() > 0 {
            decode_lenders(&mut reader, &mut segments)?;
        }
        reader.finish()?;
        Ok(Self { size_bytes, extents, segments, extent_pages, hash_pages })
    }
}

/// Deltas that name no segment of another machine end before it.
fn decode_lenders(reader: &mut Reader<'_>, segments: &mut [SegmentRef]) -> Result<(), DecodeError> {
    const WHAT: &str = "the segments of other machines";
    let out_of_range = || DecodeError::OutOfRange { what: WHAT };
    let count = reader.count(17, WHAT)?;
    if count == 0 {
        return Err(out_of_range());
    }
    let mut next = 0_u64;
    for _ in 0..count {
        let at = next.checked_add(reader.varint(WHAT)?).ok_or_else(out_of_range)?;
        let segment =
            usize::try_from(at).ok().and_then(|at| segments.get_mut(at)).ok_or_else(out_of_range)?;
        segment.lender = Some(reader.uuid(WHAT)?);
        next = at + 1;
    }
    Ok(())
}

fn decode_pages(reader: &mut Reader<'_>) -> Result<Vec<PageRef>, DecodeError> {
    let count = reader.count(36, "the pages")?;
    let mut pages = Vec::with_capacity(count);
    let mut at = 0;
    for _ in 0..count {
        let page = PageRef {
            first_block: reader.varint("a page")?,
            end_block: reader.varint("a page")?,
            place: MetaPlace { segment: small(reader, "a page")?, cell: small(reader, "a page")? },
            hash: reader.array("a page's hash")?,
        };
        if page.first_block < at || page.end_block <= page.first_block {
            return Err(DecodeError::OutOfRange { what: "a page" });
        }
        at = page.end_block;
        pages.push(page);
    }
    Ok(pages)
}

/// Encodes a page of extents, which must be in order.
#[must_use]
pub fn encode_extents(extents: &[Placed]) -> Vec<u8> {
    let mut out = Writer::new();
    out.count(extents.len());
    let mut at = 0;
    for placed in extents {
        out.varint(placed.extent.first_block - at);
        out.varint(placed.extent.block_count);
        match placed.place {
            Place::Zero => out.varint(0),
            Place::Cell { segment, cell, cell_block } => {
                out.varint(u64::from(segment) + 1);
                out.varint(u64::from(cell));
                out.varint(u64::from(cell_block));
            }
        }
        at = placed.extent.first_block + placed.extent.block_count;
    }
    out.into_bytes()
}

/// Decodes a page of extents. They are in order, do not overlap, and lie in `page`.
pub fn decode_extents(bytes: &[u8], page: &PageRef) -> Result<Vec<Placed>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(3, "the extents")?;
    let mut extents = Vec::with_capacity(count);
    let mut at = 0;
    for _ in 0..count {
        let extent = next_extent(&mut reader, &mut at, page)?;
        let place = match reader.varint("a place")? {
            0 => Place::Zero,
            segment => Place::Cell {
                segment: u32::try_from(segment - 1)
                    .map_err(|_| DecodeError::OutOfRange { what: "a place" })?,
                cell: small(&mut reader, "a place")?,
                cell_block: small(&mut reader, "a place")?,
            },
        };
        extents.push(Placed { extent, place });
    }
    reader.finish()?;
    Ok(extents)
}

/// Encodes a page of hashes, which must be in order.
#[must_use]
pub fn encode_hashes(runs: &[HashRun]) -> Vec<u8> {
    let mut out = Writer::new();
    out.count(runs.len());
    let mut at = 0;
    for run in runs {
        out.varint(run.extent.first_block - at);
        out.varint(run.extent.block_count);
        out.u8(u8::from(!run.hashes.is_empty()));
        for hash in &run.hashes {
            out.u64(*hash);
        }
        at = run.extent.first_block + run.extent.block_count;
    }
    out.into_bytes()
}

/// Decodes a page of hashes. Runs are in order, do not overlap, and lie in `page`.
pub fn decode_hashes(bytes: &[u8], page: &PageRef) -> Result<Vec<HashRun>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(3, "the hashes")?;
    let mut runs = Vec::with_capacity(count);
    let mut at = 0;
    for _ in 0..count {
        let extent = next_extent(&mut reader, &mut at, page)?;
        let hashes = match reader.u8("a run")? {
            0 => Vec::new(),
            1 => {
                let blocks = usize::try_from(extent.block_count)
                    .ok()
                    .filter(|blocks| blocks.checked_mul(8).is_some_and(|bytes| bytes <= reader.remaining()))
                    .ok_or(DecodeError::OutOfRange { what: "a run" })?;
                (0..blocks).map(|_| reader.u64("a hash")).collect::<Result<Vec<_>, _>>()?
            }
            _ => return Err(DecodeError::OutOfRange { what: "a run" }),
        };
        runs.push(HashRun { extent, hashes });
    }
    reader.finish()?;
    Ok(runs)
}

fn next_extent(reader: &mut Reader<'_>, at: &mut u64, page: &PageRef) -> Result<Extent, DecodeError> {
    const WHAT: &str = "an extent";
    let first_block = at.checked_add(reader.varint(WHAT)?).ok_or(DecodeError::OutOfRange { what: WHAT })?;
    let block_count = reader.varint(WHAT)?;
    let end = first_block.checked_add(block_count).ok_or(DecodeError::OutOfRange { what: WHAT })?;
    if block_count == 0 || first_block < page.first_block || end > page.end_block {
        return Err(DecodeError::OutOfRange { what: WHAT });
    }
    *at = end;
    Ok(Extent { first_block, block_count })
}

fn small(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, DecodeError> {
    u32::try_from(reader.varint(what)?).map_err(|_| DecodeError::OutOfRange { what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(end_block: u64) -> PageRef {
        let place = MetaPlace { segment: 0, cell: 0 };
        PageRef { first_block: 0, end_block, place, hash: [0; 32] }
    }

    proptest! {
        #[test]
        fn pages_read_back(gaps in proptest::collection::vec((0_u64..5, 1_u64..9, 0_u32..3), 0..50)) {
            let (mut at, mut extents, mut runs) = (0, Vec::new(), Vec::new());
            for (gap, block_count, kind) in gaps {
                let extent = Extent { first_block: at + gap, block_count };
                at += gap + block_count;
                let place = if kind == 0 { Place::Zero } else { Place::Cell { segment: kind, cell: 7, cell_block: 3 } };
                extents.push(Placed { extent, place });
                let hashes = if kind == 0 { Vec::new() } else { (0..block_count).map(|n| n + 1).collect() };
                runs.push(HashRun { extent, hashes });
            }
            let page = page(at + 1);
            prop_assert_eq!(decode_extents(&encode_extents(&extents), &page).unwrap(), extents);
            prop_assert_eq!(decode_hashes(&encode_hashes(&runs), &page).unwrap(), runs);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_extents(&bytes, &page(1000));
            let _ = decode_hashes(&bytes, &page(u64::MAX));
            let _ = DeltaRoot::decode(&bytes);
            let _ = crate::segment::Directory::decode(&bytes);
            let _ = crate::record::Point::decode(&bytes);
            let _ = crate::record::Open::decode(&bytes);
            let _ = crate::record::Abort::decode(&bytes);
        }
    }
}
