//! Which of the condemned segments a later generation makes superfluous.

use std::collections::{HashMap, HashSet};

use tracing::{debug, warn};

use holdfast_vault_format::collection::CondemnedSegment;

use crate::segment_id::{AnyGeneration, SegmentId};
use crate::{Vault, VaultError};

use super::mark::Mark;
use super::needed::{Needed, NeededSegments};

impl Vault {
    /// Of what is condemned, the segments that a higher generation makes superfluous: one that nobody condemned and that has all that
    /// points need.
    pub(super) async fn replaced(
        &self,
        mark: &Mark,
        condemned: &HashSet<CondemnedSegment>,
    ) -> Result<HashSet<CondemnedSegment>, VaultError> {
        // By segment: those that may go, and those that may take their place.
        let mut candidates: HashMap<AnyGeneration, (Vec<CondemnedSegment>, Vec<CondemnedSegment>)> =
            HashMap::new();
        for (segment, generations) in mark.generations() {
            let (machine, seq, number) = segment;
            let named = |generation: &u32| CondemnedSegment { machine, seq, number, generation: *generation };
            let (old, new): (Vec<_>, Vec<_>) =
                generations.keys().map(named).partition(|segment| condemned.contains(segment));
            if old.iter().any(|old| new.iter().any(|new| new.generation > old.generation)) {
                candidates.insert(segment, (old, new));
            }
        }
        let wanted: HashSet<(u64, u32)> = candidates.keys().map(|(_, seq, number)| (*seq, *number)).collect();
        let mut found = HashSet::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        let needed = match self.blocks_needed(&mark.points, &wanted).await {
            Ok(needed) => needed,
            // Then it cannot be told, and everything stays.
            Err(error) if error.is_damage() => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "nothing that was replaced is deleted: damaged"
                );
                return Ok(found);
            }
            Err(error) => return Err(error),
        };
        for (segment, (old, new)) in candidates {
            let Some(replacement) = self.replacement(&needed, segment, &new).await? else { continue };
            found.extend(old.into_iter().filter(|old| old.generation < replacement));
        }
        Ok(found)
    }

    /// The highest of these generations that has what is needed. When this answers, its name is durable.
    async fn replacement(
        &self,
        needed: &NeededSegments,
        (machine, seq, number): AnyGeneration,
        generations: &[CondemnedSegment],
    ) -> Result<Option<u32>, VaultError> {
        let nothing = Needed::default();
        let needed = needed.get(&(seq, number)).unwrap_or(&nothing);
        for generation in generations.iter().map(|segment| segment.generation).rev() {
            let id = SegmentId { machine, seq, number, generation };
            match self.read_segment(id).await {
                Ok(segment) if needed.is_in(&segment) => {
                    self.storage().make_durable(&id.name()).await?;
                    return Ok(Some(generation));
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    debug!(segment = id.name(), error = &error as &dyn std::error::Error, "replaces nothing");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
