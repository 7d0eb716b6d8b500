//! What was received of a backup so far, and where it lies.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{Place, SegmentRef};
use holdfast_vault_format::segment::CellBlocks;

use crate::VaultError;
use crate::layer::Layer;
use crate::segment_id::SegmentId;
use crate::writer::SegmentWriter;

use super::known::Known;
use super::lent::Lent;
use super::upload::Upload;

pub(crate) struct State {
    /// All segments that blocks may lie in: adopted ones, this backup's, and those of known cells.
    pub(crate) segments: Vec<SegmentSlot>,
    pub(super) slots: HashMap<SegmentId, usize>,
    /// By index in `segments`. Shared once the backup is closed.
    pub(crate) lent: Arc<Lent>,
    pub(crate) writer: Option<OpenSegment>,
    pub(super) next_number: u32,
    /// By disk, in the order of the request.
    pub(crate) disks: Vec<DiskState>,
    /// Every sealed segment that is not known to be durable; failed ones stay.
    pub(super) in_flight: Vec<watch::Receiver<Upload>>,
    pub(super) closed: bool,
}

#[derive(Default)]
pub(crate) struct DiskState {
    /// Shared only once the backup is closed: nobody copies it.
    pub(crate) layer: Arc<Layer>,
    pub(crate) sent_bytes: u64,
    /// Sealed cells only.
    pub(crate) cell_bytes: u64,
}

pub(crate) struct SegmentSlot {
    pub(crate) id: SegmentId,
    /// Unknown while it is open.
    pub(crate) root: Option<[u8; 32]>,
    pub(crate) size: u64,
}

pub(crate) struct OpenSegment {
    pub(crate) slot: usize,
    pub(crate) writer: SegmentWriter,
    pub(super) done: watch::Sender<Upload>,
}

impl State {
    /// Of so many disks, before anything is received.
    pub(super) fn new(disks: usize) -> Self {
        Self {
            segments: Vec::new(),
            slots: HashMap::new(),
            lent: Arc::default(),
            writer: None,
            next_number: 0,
            disks: std::iter::repeat_with(DiskState::default).take(disks).collect(),
            in_flight: Vec::new(),
            closed: false,
        }
    }

    /// The segments that blocks lie in, as deltas name them.
    pub(crate) fn segments_received(&self, own: Uuid) -> Result<Vec<SegmentRef>, VaultError> {
        let open = self.writer.as_ref();
        let reference = |(slot, entry): (usize, &SegmentSlot)| {
            let root = entry.root.or_else(|| Some(open.filter(|open| open.slot == slot)?.writer.root()));
            let SegmentId { machine, seq, number, generation } = entry.id;
            let lender = (machine != own).then_some(machine);
            Ok(SegmentRef { lender, seq, number, generation, root: root.ok_or(VaultError::Broken)? })
        };
        self.segments.iter().enumerate().map(reference).collect()
    }

    /// The index of a segment in the list; it is added if it is not there.
    pub(super) fn slot(&mut self, id: SegmentId, root: Option<[u8; 32]>, size: u64) -> usize {
        *self.slots.entry(id).or_insert_with(|| {
            self.segments.push(SegmentSlot { id, root, size });
            self.segments.len() - 1
        })
    }

    /// Lays a cell that stands for a known one over a disk.
    pub(super) fn receive_known(
        &mut self,
        disk: usize,
        (slot, cell): (usize, u32),
        blocks: &CellBlocks,
        known: &Known,
    ) {
        // What other backups stored is not counted as this one's.
        let lent = self.slot(known.id, Some(known.segment.root), 0);
        let number = |slot| u32::try_from(slot).unwrap_or(u32::MAX);
        Arc::make_mut(&mut self.lent).insert((number(slot), cell), (number(lent), known.cell));
        receive(Arc::make_mut(&mut self.disks[disk].layer), slot, cell, blocks);
    }

    /// An error if a segment could not be stored: then there can be no point.
    pub(crate) fn check_uploads(&self) -> Result<(), VaultError> {
        self.in_flight.iter().try_for_each(|upload| upload.borrow().result())
    }
}

/// Lays the blocks of a cell over a disk's layer.
pub(super) fn receive(layer: &mut Layer, slot: usize, cell: u32, blocks: &CellBlocks) {
    let mut place = Place::Cell { segment: u32::try_from(slot).unwrap_or(u32::MAX), cell, cell_block: 0 };
    for extent in &blocks.extents {
        layer.insert(*extent, place);
        place = place.skip(extent.block_count);
    }
}

pub(super) fn receive_zeros(layer: &mut Layer, extents: &[Extent]) {
    for extent in extents {
        layer.insert(*extent, Place::Zero);
    }
}
