//! Objects that are sealed and signed as they should be and whose insides are the fuzzer's: what an attacker with the keys
//! could write, or a bug of ours. Hashes and roots are right, unless they are edited, so that readers get far.

use arbitrary::{Result, Unstructured};
use holdfast_vault_format::bytes::Writer;
use holdfast_vault_format::container::{Kind, Sealer};
use holdfast_vault_format::delta::{DeltaRoot, MetaPlace, PageRef, SegmentRef};
use holdfast_vault_format::kept::{Blocks, Kept};
use holdfast_vault_format::record::{Abort, Consistency, DeltaRef, Open, Point, PointDisk, PointRef};
use holdfast_vault_format::segment::{CellBlocks, CellEntry, CellKind, CellRef, Directory, encode_table};
use holdfast_vault_format::{BLOCK_SIZE, Codec, Extent, cell_hash, encode_cell};
use uuid::Uuid;

use crate::sample::plain;
use crate::vault::{MACHINE, Objects, open_name, point_name, ring, seal, segment_name, signer};

/// Backups in one vault.
const BACKUPS: u64 = 3;
pub const DISKS: [&str; 2] = ["a", "b"];

/// What later backups build on.
#[derive(Default)]
struct History {
    objects: Objects,
    /// By disk, newest first.
    stacks: [Vec<DeltaRef>; 2],
    segments: Vec<SegmentRef>,
    previous: Option<PointRef>,
}

/// The objects of a machine.
///
/// # Errors
/// If the input is used up.
pub fn machine(u: &mut Unstructured<'_>) -> Result<Objects> {
    let mut history = History::default();
    let backups = u.int_in_range(1..=BACKUPS)?;
    for seq in 1..=backups {
        backup(u, seq, &mut history)?;
    }
    Ok(history.objects)
}

fn backup(u: &mut Unstructured<'_>, seq: u64, history: &mut History) -> Result<()> {
    let mut cells = Cells::new();
    for _ in 0..u.int_in_range(0..=4)? {
        cells.push_blocks(u, &history.segments)?;
    }
    let root = cells.directory.root();
    let generation = u32::from(u.ratio(1, 30)?);
    // Its own machine is a lender like any other.
    let lender = u.ratio(1, 12)?.then_some(MACHINE);
    history.segments.insert(0, SegmentRef { lender, seq, number: 0, generation, root });
    for index in 0..DISKS.len() {
        if u.ratio(1, 8)? {
            continue;
        }
        let delta = delta(u, seq, &history.segments, &mut cells, history.stacks[index].is_empty())?;
        if u.ratio(1, 3)? {
            history.stacks[index].clear();
        }
        history.stacks[index].insert(0, delta);
    }
    let name = segment_name(seq, 0);
    history.objects.push((name.clone(), cells.seal(u, &name)?));
    if u.ratio(3, 4)? {
        let open = Open {
            machine: MACHINE,
            seq: edited(u, seq)?,
            snapshot: Uuid::from_u128(20),
            step: Uuid::from_u128(21),
            attempt: 1,
            base: history.previous,
            adopted: (0..u.int_in_range(0..=2)?).map(|_| number(u)).collect::<Result<_>>()?,
            epoch: 0,
        };
        let body = edit(u, open.encode())?;
        history.objects.push((open_name(seq), seal(Kind::Open, &open_name(seq), &body)));
    }
    match u.int_in_range(0..=9)? {
        0 => Ok(()),
        1 => {
            let body = Abort { machine: MACHINE, seq, reason: "lost".to_owned() }.encode();
            let body = edit(u, body)?;
            history.objects.push((point_name(seq), seal(Kind::Abort, &point_name(seq), &body)));
            Ok(())
        }
        _ => point(u, seq, history),
    }
}

fn point(u: &mut Unstructured<'_>, seq: u64, history: &mut History) -> Result<()> {
    let mut disks = Vec::new();
    for (name, stack) in DISKS.iter().zip(&history.stacks) {
        let [read_bytes, changed_bytes, sent_bytes, stored_bytes] = u.arbitrary::<[u16; 4]>()?.map(u64::from);
        let mut stack = stack.clone();
        if u.ratio(1, 20)? {
            stack.reverse();
        }
        disks.push(PointDisk {
            name: (*name).to_owned(),
            size_bytes: size(u)?,
            read_bytes,
            changed_bytes,
            sent_bytes,
            stored_bytes,
            stack,
        });
    }
    let point = Point {
        id: Uuid::from_u128(100 + u128::from(seq)),
        machine: MACHINE,
        machine_name: "web1".to_owned(),
        seq: edited(u, seq)?,
        created_at: if u.ratio(1, 20)? { u.arbitrary()? } else { 1_700_000_000_000_000 },
        taken_at: if u.ratio(1, 20)? { u.arbitrary()? } else { 1_700_000_000_000_000 },
        consistency: Consistency::Crash,
        snapshot: Uuid::from_u128(20),
        step: Uuid::from_u128(21),
        attempt: i64::from(u.arbitrary::<u8>()?),
        previous: history.previous,
        disks,
    };
    history.previous = Some(PointRef { seq, hash: point.hash() });
    let name = point_name(seq);
    // What is signed is a point: without the seed nobody gets further.
    let sealed = seal(Kind::Point, &name, &signer().sign(&point));
    history.objects.push((name, sealed));
    Ok(())
}

/// A delta in cells of this backup.
fn delta(
    u: &mut Unstructured<'_>,
    seq: u64,
    segments: &[SegmentRef],
    cells: &mut Cells,
    bottom: bool,
) -> Result<DeltaRef> {
    let covers_all = if bottom { u.ratio(9, 10)? } else { u.ratio(1, 10)? };
    let mut pages = [Vec::new(), Vec::new()];
    let mut extents = 0;
    for (kind, pages) in pages.iter_mut().enumerate() {
        let mut at = 0;
        for _ in 0..u.int_in_range(u8::from(covers_all)..=2)? {
            let (bytes, first_block, end_block, count) =
                page(u, at, Wanted { hashes: kind == 1, covers_all, segments: segments.len() as u64 })?;
            at = end_block;
            extents += if kind == 0 { count } else { 0 };
            let bytes = edit(u, bytes)?;
            let hash = cell_hash(&bytes);
            let place = MetaPlace { segment: u32::from(u.ratio(1, 40)?), cell: cells.push_meta(bytes) };
            pages.push(PageRef { first_block, end_block, place, hash });
            if end_block == u64::MAX {
                break;
            }
        }
    }
    let [extent_pages, hash_pages] = pages;
    let extents = if u.ratio(1, 10)? { number(u)? } else { extents };
    let root =
        DeltaRoot { size_bytes: size(u)?, extents, segments: segments.to_vec(), extent_pages, hash_pages };
    let root = edit(u, root.encode())?;
    let hash = cell_hash(&root);
    let parts = if u.ratio(1, 8)? {
        let (head, tail) = root.split_at(root.len() / 2);
        vec![head.to_vec(), tail.to_vec()]
    } else {
        vec![root]
    };
    let place = |cell| MetaPlace { segment: 0, cell };
    let parts = parts.into_iter().map(|part| place(cells.push_meta(part))).collect();
    Ok(DeltaRef { seq, hash, parts })
}

/// What a page is to be.
#[derive(Clone, Copy)]
struct Wanted {
    /// Instead of extents.
    hashes: bool,
    covers_all: bool,
    /// How many the root names.
    segments: u64,
}

/// A page from block `at` on: its bytes, first and end block, and number of entries.
fn page(u: &mut Unstructured<'_>, at: u64, wanted: Wanted) -> Result<(Vec<u8>, u64, u64, u64)> {
    let Wanted { hashes, covers_all, segments } = wanted;
    let count = u.int_in_range(1..=5)?;
    let mut out = Writer::new();
    out.varint(count);
    let mut end = 0_u64;
    for index in 0..count {
        let skipped = if index == 0 { at } else { 0 };
        let gap = if covers_all && u.ratio(19, 20)? { 0 } else { number(u)? };
        let gap = gap.saturating_add(skipped);
        // The last one covers what the first ones left of a small disk.
        let last = covers_all && index == count - 1;
        let blocks = if last { 64 } else { number(u)?.max(1) };
        out.varint(gap);
        out.varint(blocks);
        end = end.saturating_add(gap).saturating_add(blocks);
        if hashes {
            if blocks > 64 || last || u.arbitrary()? {
                out.u8(0);
            } else {
                out.u8(1);
                (0..blocks).for_each(|block| out.u64(block + 1));
            }
        } else {
            let most = if u.ratio(1, 40)? { segments + 1 } else { segments };
            let segment = if last { 0 } else { u.int_in_range(0..=most)? };
            out.varint(segment);
            if segment > 0 {
                out.varint(number(u)? % 4);
                out.varint(number(u)? % 3);
            }
        }
    }
    Ok((out.into_bytes(), at, end.max(at.saturating_add(1)), count))
}

/// Cells of a segment and their directory.
struct Cells {
    directory: Directory,
    table: Vec<CellBlocks>,
    data: Vec<Vec<u8>>,
}

impl Cells {
    fn new() -> Self {
        let disks = DISKS.map(str::to_owned).to_vec();
        let directory = Directory { snapshot: Uuid::from_u128(20), disks, cells: Vec::new() };
        Self { directory, table: Vec::new(), data: Vec::new() }
    }

    fn push(
        &mut self,
        kind: CellKind,
        plain_len: usize,
        hash: [u8; 32],
        blocks: CellBlocks,
        data: Vec<u8>,
    ) -> u32 {
        let plain_len = u32::try_from(plain_len).unwrap_or(u32::MAX);
        self.directory.cells.push(CellEntry { kind, plain_len, stored_len: 0, hash });
        self.table.push(blocks);
        self.data.push(data);
        u32::try_from(self.data.len() - 1).unwrap_or(u32::MAX)
    }

    fn push_meta(&mut self, data: Vec<u8>) -> u32 {
        self.push(CellKind::Meta, data.len(), cell_hash(&data), CellBlocks::default(), data)
    }

    /// A cell of data or zeros, or one that stands for a cell of an earlier segment.
    fn push_blocks(&mut self, u: &mut Unstructured<'_>, earlier: &[SegmentRef]) -> Result<()> {
        let disk = u32::from(u.arbitrary::<bool>()?);
        if u.ratio(1, 3)? {
            let extents = extents(u, u64::MAX)?;
            self.push(
                CellKind::Zero { disk },
                0,
                cell_hash(&[]),
                CellBlocks { extents, hashes: Vec::new() },
                Vec::new(),
            );
            return Ok(());
        }
        let extents = extents(u, 4)?;
        let blocks = extents.iter().map(|extent| extent.block_count).sum::<u64>();
        let plain = plain(blocks, u.arbitrary()?);
        let (codec, data) =
            if u.arbitrary()? { encode_cell(plain.clone(), 1) } else { (Codec::Raw, plain.clone()) };
        let hash = if u.ratio(1, 20)? { u.arbitrary()? } else { cell_hash(&plain) };
        let hashes = (0..blocks).map(|block| block + 1).collect();
        let blocks = CellBlocks { extents, hashes };
        if let Some(segment) = earlier.first().filter(|_| matches!(u.ratio(1, 4), Ok(true))) {
            let SegmentRef { seq, number, generation, root, .. } = *segment;
            let place =
                CellRef { machine: MACHINE, seq, number, generation, root, cell: u.int_in_range(0..=4)? };
            let place = edit(u, place.encode())?;
            self.push(CellKind::Known { disk }, plain.len(), hash, blocks, place);
            return Ok(());
        }
        if u.ratio(1, 4)? {
            let kept = Blocks(u.arbitrary::<u32>()? & Blocks::first(plain.len() / BLOCK_SIZE).0);
            let plain_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
            let (codec, left) = Kept::whole(&plain).encode(plain_len, kept, 1);
            let left = edit(u, left)?;
            self.push(CellKind::Kept { codec, kept }, plain.len(), hash, CellBlocks::default(), left);
            return Ok(());
        }
        self.push(CellKind::Data { disk, codec }, plain.len(), hash, blocks, data);
        Ok(())
    }

    fn seal(mut self, u: &mut Unstructured<'_>, name: &str) -> Result<Vec<u8>> {
        let mut sealer =
            Sealer::new(&ring(), Kind::Segment, name, [6; 32], Vec::new()).expect("it can be sealed");
        for (entry, data) in self.directory.cells.iter_mut().zip(&self.data) {
            entry.stored_len =
                sealer.cell(entry.codec_byte(), entry.plain_len, data).expect("it can be sealed");
        }
        let table = edit(u, encode_table(&self.table))?;
        let directory = edit(u, self.directory.encode())?;
        Ok(sealer.finish(&table, &directory).expect("it can be sealed"))
    }
}

/// Ascending, each of at most `most` blocks.
fn extents(u: &mut Unstructured<'_>, most: u64) -> Result<Vec<Extent>> {
    let mut at = 0_u64;
    let mut extents = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        let block_count = number(u)?.clamp(1, most);
        let Some(first_block) = at.checked_add(number(u)?) else { break };
        let Some(end) = first_block.checked_add(block_count) else { break };
        at = end;
        extents.push(Extent { first_block, block_count });
    }
    if extents.is_empty() {
        extents.push(Extent { first_block: 0, block_count: 1 });
    }
    Ok(extents)
}

/// The size of a disk: mostly small.
fn size(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=15)? {
        0 => u.arbitrary()?,
        1 => u64::MAX - u64::from(u.arbitrary::<u16>()?),
        _ => u64::from(u.arbitrary::<u8>()? & 31) * BLOCK_SIZE as u64 + u64::from(u.arbitrary::<bool>()?),
    })
}

/// Mostly small.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=63)? {
        0 => u.arbitrary()?,
        1 => u64::MAX - u64::from(u.arbitrary::<u8>()?),
        small => small & 15,
    })
}

fn edited(u: &mut Unstructured<'_>, value: u64) -> Result<u64> {
    if u.ratio(1, 40)? { number(u) } else { Ok(value) }
}

/// Changes a few bytes, now and then.
fn edit(u: &mut Unstructured<'_>, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    if bytes.is_empty() || !u.ratio(1, 10)? {
        return Ok(bytes);
    }
    for _ in 0..u.int_in_range(1..=3)? {
        let at = u.choose_index(bytes.len())?;
        match u.int_in_range(0..=5)? {
            0 => bytes.truncate(at.max(1)),
            1 => bytes.insert(at, u.arbitrary()?),
            _ => bytes[at] = u.arbitrary()?,
        }
    }
    Ok(bytes)
}
