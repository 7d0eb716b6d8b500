use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tracing::warn;

use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::segment::CellKind;

use crate::begin::BeginBackup;
use crate::segment::SegmentId;
use crate::{Vault, VaultError, name, object};

use super::{SegmentSlot, State, receive, receive_zeros};

/// Takes over the segments of an earlier backup that has no point: what they hold need not be sent again where the disk
/// still has it. What a collection condemned counts as gone.
pub(super) async fn adopt(
    vault: &Vault,
    request: &BeginBackup,
    seq: u64,
    condemned: &HashSet<CondemnedSegment>,
    state: &mut State,
) -> Result<(), VaultError> {
    let prefix = format!("seg/{}/{seq:020}", request.machine);
    let mut newest = BTreeMap::new();
    for path in object::list(vault.store(), &prefix).await? {
        if let Some((number, generation)) = name::segment_of(&path) {
            newest.insert(number, generation);
        }
    }
    if let Some((number, generation)) = newest.first_key_value() {
        // Their writer may have been killed before their names were durable; all of them are in one directory.
        vault.storage().settle(&name::segment(request.machine, seq, *number, *generation)).await?;
    }
    for (number, generation) in newest {
        let id = SegmentId { machine: request.machine, seq, number, generation };
        if condemned.contains(&CondemnedSegment { machine: request.machine, seq, number, generation }) {
            continue;
        }
        match adopt_segment(vault, request, id, state).await {
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
    // The disk may have been larger then.
    for (disk, spec) in state.disks.iter_mut().zip(&request.disks) {
        Arc::make_mut(&mut disk.layer).truncate(blocks_of(spec.size_bytes));
    }
    Ok(())
}

async fn adopt_segment(
    vault: &Vault,
    request: &BeginBackup,
    id: SegmentId,
    state: &mut State,
) -> Result<(), VaultError> {
    let segment = vault.segment(id).await?;
    let table = vault.segment_table(&segment).await?;
    let slot = state.segments.len();
    state.segments.push(SegmentSlot { id, root: Some(segment.root), size: segment.size });
    for (cell, (entry, blocks)) in (0_u32..).zip(segment.directory.cells.iter().zip(&table)) {
        let (CellKind::Data { disk, .. } | CellKind::Zero { disk }) = entry.kind else { continue };
        let name = &segment.directory.disks[disk as usize];
        let Some(index) = request.disks.iter().position(|spec| spec.name == *name) else { continue };
        let into = &mut state.disks[index];
        let layer = Arc::make_mut(&mut into.layer);
        if let CellKind::Data { .. } = entry.kind {
            into.sent_bytes += u64::from(entry.stored_len).saturating_sub(16);
            into.cell_bytes += u64::from(entry.stored_len);
            receive(layer, slot, cell, blocks);
        } else {
            receive_zeros(layer, &blocks.extents);
        }
    }
    Ok(())
}
