use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use tracing::warn;

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::container::TAG_LEN;
use holdfast_vault_format::segment::{CellBlocks, CellEntry, CellKind, CellRef};

use crate::blocking::on_its_own;
use crate::directory::Segment;
use crate::segment::StoredCells;
use crate::segment_id::SegmentId;
use crate::{Vault, VaultError, name, object};

use super::BeginBackup;
use super::known::{self, Known};
use super::state::{State, receive, receive_zeros};

/// Directories and tables that are read at once, each by several requests one after the other.
const AHEAD: usize = 16;
/// A read that begins so long before the end has time to end.
const LAST_READ: Duration = Duration::from_secs(5);

/// How closely what is taken over is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Whoever opens a transfer waits for it: what was not read by then is not taken over but sent again.
    pub(super) until: Instant,
    /// The newest point is damaged. What damaged it may have damaged this, too, and the next point is to heal.
    pub(super) heals: bool,
}

/// Takes over the segments of earlier backups that have no point: what they hold need not be sent again where the disk
/// still has it. What a collection condemned counts as gone.
pub(super) async fn adopt(
    vault: &Vault,
    request: &BeginBackup,
    seqs: &[u64],
    condemned: &HashSet<CondemnedSegment>,
    look: Look,
    state: &mut State,
) -> Result<(), VaultError> {
    let all = async {
        for seq in seqs {
            adopt_backup(vault, request, *seq, condemned, look, state).await?;
        }
        Ok::<(), VaultError>(())
    };
    let adopted = tokio::time::timeout_at(look.until, all).await;
    // The disk may have been larger then.
    for (disk, spec) in state.disks.iter_mut().zip(&request.disks) {
        Arc::make_mut(&mut disk.layer).truncate(blocks_of(spec.size_bytes));
    }
    adopted.unwrap_or_else(|_| {
        warn!(machine = %request.machine, "the storage is slow: not all that is stored is taken over, the rest is sent again");
        Ok(())
    })
}

/// Each segment counts whole or not at all, whenever this is given up.
async fn adopt_backup(
    vault: &Vault,
    request: &BeginBackup,
    seq: u64,
    condemned: &HashSet<CondemnedSegment>,
    look: Look,
    state: &mut State,
) -> Result<(), VaultError> {
    let prefix = format!("seg/{}/{seq:020}", request.machine);
    let mut newest = BTreeMap::new();
    for path in object::list(vault.store(), &prefix).await? {
        if let Some((number, generation)) = name::segment_of(&path) {
            // By number: as text, the tenth generation comes before the second.
            let known = newest.entry(number).or_insert(generation);
            *known = generation.max(*known);
        }
    }
    if let Some((number, generation)) = newest.first_key_value() {
        // Their writer may have been killed before their names were durable; all of them are in one directory.
        let first = name::segment(request.machine, seq, *number, *generation);
        if !object::make_durable(vault.storage(), &first).await? {
            return Ok(());
        }
    }
    let ids: Vec<SegmentId> = newest
        .into_iter()
        .map(|(number, generation)| SegmentId { machine: request.machine, seq, number, generation })
        .filter(|id| !condemned.contains(&CondemnedSegment::from(*id)))
        .collect();
    let mut ahead = futures::stream::iter(ids)
        .map(|id| {
            let vault = vault.clone();
            // What is done with one of them may take long.
            on_its_own(async move { Ok((id, read(&vault, id).await)) })
        })
        .buffered(AHEAD);
    while let Some(next) = ahead.next().await {
        let (id, read) = next?;
        let adopted = match read {
            Ok(read) => adopt_segment(vault, request, id, read, condemned, look, state).await,
            Err(error) => Err(error),
        };
        match adopted {
            // Nothing refers to it yet: what it held is sent again.
            Err(error) if error.is_damage() => {
                warn!(
                    segment = id.name(),
                    error = &error as &dyn std::error::Error,
                    "not taken over: damaged"
                );
            }
            other => other?,
        }
    }
    Ok(())
}

/// A segment, and which blocks its cells hold.
async fn read(vault: &Vault, id: SegmentId) -> Result<(Arc<Segment>, Vec<CellBlocks>), VaultError> {
    let segment = vault.segment(id).await?;
    let table = vault.segment_table(&segment).await?;
    Ok((segment, table))
}

async fn adopt_segment(
    vault: &Vault,
    request: &BeginBackup,
    id: SegmentId,
    (segment, table): (Arc<Segment>, Vec<CellBlocks>),
    condemned: &HashSet<CondemnedSegment>,
    look: Look,
    state: &mut State,
) -> Result<(), VaultError> {
    let known = known_cells(vault, &segment, condemned, look.until - LAST_READ).await?;
    let damaged = match look.heals {
        true => vault.damaged_cells(&segment).await?,
        false => HashSet::new(),
    };
    let slot = state.slot(id, Some(segment.root), segment.size);
    for (cell, (entry, blocks)) in (0_u32..).zip(segment.directory.cells.iter().zip(&table)) {
        let (CellKind::Data { disk, .. } | CellKind::Zero { disk } | CellKind::Known { disk }) = entry.kind
        else {
            continue;
        };
        let name = &segment.directory.disks[disk as usize];
        let Some(index) = request.disks.iter().position(|spec| spec.name == *name) else { continue };
        match entry.kind {
            CellKind::Known { .. } => {
                let Some(known) = known.get(&cell) else { continue };
                let sent = known.segment.entry(known.cell)?.stored_len;
                count(state, index, sent, entry.stored_len);
                state.receive_known(index, (slot, cell), blocks, known);
            }
            CellKind::Data { .. } if damaged.contains(&cell) => {}
            CellKind::Data { .. } => {
                count(state, index, entry.stored_len, entry.stored_len);
                receive(Arc::make_mut(&mut state.disks[index].layer), slot, cell, blocks);
            }
            _ => receive_zeros(Arc::make_mut(&mut state.disks[index].layer), &blocks.extents),
        }
    }
    Ok(())
}

/// A cell that was sent (its length there as it is sealed) and what it takes.
fn count(state: &mut State, disk: usize, sent: u32, stored: u32) {
    state.disks[disk].sent_bytes += u64::from(sent).saturating_sub(TAG_LEN as u64);
    state.disks[disk].cell_bytes += u64::from(stored);
}

/// The known cells that a segment's own stand for, where they still read and are true; the others are sent again.
async fn known_cells(
    vault: &Vault,
    segment: &Arc<Segment>,
    condemned: &HashSet<CondemnedSegment>,
    until: Instant,
) -> Result<HashMap<u32, Known>, VaultError> {
    let cells = &segment.directory.cells;
    let is_known = |cell: &CellEntry| matches!(cell.kind, CellKind::Known { .. });
    let (mut found, mut lenders) = (Vec::new(), HashMap::new());
    let mut at = 0;
    for run in cells.chunk_by(|one, next| is_known(one) == is_known(next)) {
        let first = at;
        at += u32::try_from(run.len()).unwrap_or(u32::MAX);
        if !is_known(&run[0]) {
            continue;
        }
        let stored = StoredCells::read(vault, Arc::clone(segment), first..=at - 1).await?;
        for (cell, entry) in (first..at).zip(run) {
            let place = CellRef::decode(&stored.open(cell)?)
                .map_err(|source| VaultError::damaged(&segment.name, source))?;
            let CellRef { machine, seq, number, generation, root, cell: of } = place;
            let id = SegmentId { machine, seq, number, generation };
            let lent = match lenders.entry(id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(match known::borrow(vault, id, condemned).await {
                    Err(error) if error.is_damage() => None,
                    borrowed => borrowed?,
                }),
            };
            let Some(lent) = lent.as_ref().filter(|lent| lent.root == root) else { continue };
            let known = Known { id, segment: Arc::clone(lent), cell: of };
            if known.has(&entry.hash, entry.plain_len) {
                found.push((cell, known));
            }
        }
    }
    known::keep_true(vault, found, until).await
}
