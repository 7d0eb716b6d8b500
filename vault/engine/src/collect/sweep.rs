//! Deleting what was condemned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use holdfast_vault_format::collection::{Condemned, CondemnedSegment};

use crate::{VaultError, name, object};

use super::CollectionRun;

/// Deletions under way.
const IN_FLIGHT: usize = 8;

/// What became of what was condemned of one machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Swept {
    All,
    /// Something has to wait for a backup, or is held.
    Later,
}

impl CollectionRun {
    pub(super) async fn sweep_one(&mut self, condemned: Condemned) -> Result<(), VaultError> {
        let epoch = condemned.epoch;
        let mut machines: BTreeMap<Uuid, Vec<CondemnedSegment>> = BTreeMap::new();
        for segment in condemned.segments {
            machines.entry(segment.machine).or_default().push(segment);
        }
        let mut all = true;
        for (machine, segments) in machines {
            match self.sweep_machine(epoch, machine, &segments).await {
                Ok(swept) => all &= swept == Swept::All,
                Err(error) => {
                    all = false;
                    self.hold(machine, error)?;
                }
            }
        }
        if all { self.vault.finish_collection(epoch).await } else { Ok(()) }
    }

    async fn sweep_machine(
        &mut self,
        epoch: u64,
        machine: Uuid,
        segments: &[CondemnedSegment],
    ) -> Result<Swept, VaultError> {
        if self.held.contains(&machine) {
            return Ok(Swept::Later);
        }
        let mark = self.mark(machine, &BTreeSet::new(), Some(epoch)).await?;
        // They may have begun before it was condemned, and use it without knowing.
        let before = |known: Option<u64>| known.is_none_or(|known| known < epoch);
        let waiting =
            mark.undecided.iter().filter(|(_, known)| before(*known)).map(|(seq, _)| (machine, *seq));
        let waiting: Vec<_> = waiting.filter(|open| !self.report.waiting_for.contains(open)).collect();
        self.report.waiting_for.extend(waiting);
        if mark.undecided.iter().any(|(_, known)| before(*known)) {
            return Ok(Swept::Later);
        }
        let dead: HashMap<CondemnedSegment, u64> = mark.dead.into_iter().collect();
        let delete = segments.iter().filter_map(|segment| Some((*segment, *dead.get(segment)?)));
        let vault = &self.vault;
        let mut deleted = futures::stream::iter(delete)
            .map(|(segment, bytes)| async move {
                let CondemnedSegment { machine, seq, number, generation } = segment;
                let object = name::segment(machine, seq, number, generation);
                object::delete(vault.store(), &object).await.map(|()| bytes)
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some(bytes) = deleted.try_next().await? {
            self.report.deleted_segments += 1;
            self.report.deleted_bytes += bytes;
        }
        drop(deleted);
        Ok(Swept::All)
    }
}
