//! Deleting what was condemned.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use holdfast_vault_format::collection::{Condemned, CondemnedSegment};

use crate::{VaultError, name, object};

use super::CollectionRun;

/// Deletions under way.
const IN_FLIGHT: usize = 8;

/// What is to be done about what a collection condemned.
#[derive(Debug)]
pub(super) struct Verdict {
    number: u64,
    /// With their sizes in bytes.
    dead: Vec<(CondemnedSegment, u64)>,
    /// After that nothing is left of it. As long as something is, what is condemned is remembered: a collector that looked
    /// long ago may still delete it, so nobody may take it over.
    is_all: bool,
}

impl CollectionRun {
    pub(super) async fn judge(&mut self, condemned: Condemned) -> Result<Verdict, VaultError> {
        let mut machines: BTreeMap<Uuid, HashSet<CondemnedSegment>> = BTreeMap::new();
        for segment in condemned.segments {
            machines.entry(segment.machine).or_default().insert(segment);
        }
        let mut verdict = Verdict { number: condemned.number, dead: Vec::new(), is_all: true };
        for (machine, segments) in machines {
            if let Err(error) = self.judge_machine(machine, &segments, &mut verdict).await {
                verdict.is_all = false;
                self.hold(machine, error)?;
            }
        }
        Ok(verdict)
    }

    async fn judge_machine(
        &mut self,
        machine: Uuid,
        segments: &HashSet<CondemnedSegment>,
        verdict: &mut Verdict,
    ) -> Result<(), VaultError> {
        if self.held.contains(&machine) {
            verdict.is_all = false;
            return Ok(());
        }
        let mark = self.mark(machine, &BTreeSet::new(), Some(verdict.number)).await?;
        // They may have begun before it was condemned, and use it without knowing.
        let unaware = |known: Option<u64>| known.is_none_or(|known| known < verdict.number);
        let unaware: Vec<_> = mark
            .undecided
            .iter()
            .filter(|(_, known)| unaware(*known))
            .map(|(seq, _)| (machine, *seq))
            .collect();
        if !unaware.is_empty() {
            verdict.is_all = false;
            let new: Vec<_> =
                unaware.into_iter().filter(|open| !self.report.waiting_for.contains(open)).collect();
            self.report.waiting_for.extend(new);
            return Ok(());
        }
        verdict.is_all &= !mark.needed.iter().any(|segment| segments.contains(segment));
        verdict.dead.extend(mark.dead.into_iter().filter(|(segment, _)| segments.contains(segment)));
        Ok(())
    }

    pub(super) async fn carry_out(&mut self, verdict: Verdict) -> Result<(), VaultError> {
        let vault = &self.vault;
        let mut deleted = futures::stream::iter(verdict.dead)
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
        if verdict.is_all { vault.finish_collection(verdict.number).await } else { Ok(()) }
    }
}
