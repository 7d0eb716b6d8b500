//! Replacing segments of which most is dead.
//!
//! What points need of a segment is written under the same number and the next generation, and read back. Cells keep their numbers
//! and hashes, so deltas that name the old one stay true: readers take any later generation that has what they need. The old one is
//! condemned like any other and waits for the same backups. It goes only while a higher generation that nobody
//! condemned has all that points need then: whatever several collectors do, the highest one stays, so no generation comes twice.
//!
//! Segments that other machines borrow from are left as they are, and so are those that a backup may go on with, and those that the
//! storage retains for points under lock.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use tracing::{debug, warn};
use uuid::Uuid;

use holdfast_vault_format::collection::CondemnedSegment;

use crate::segment_id::{AnyGeneration, SegmentId};
use crate::{Vault, VaultError};

use super::mark::{Generations, Look};
use super::needed::Needed;
use super::rewrite::Rewrite;
use super::{CollectionProgress, CollectionRun, Compaction, Purge};

/// A segment is replaced when so much of it is dead.
const DEAD_PERCENT: u64 = 35;
/// A machine's turn comes every so many collections.
const TURNS: u128 = 7;
/// Segments that are looked at together: bounds the memory for what is needed of them to some 64 MiB.
const TOGETHER: usize = 16 << 10;
/// Bytes that one collection frees so at most; the next one goes on.
const MAX_FREED: u64 = 64 << 30;

/// What is to be done about a machine.
#[derive(Debug, Default)]
struct Plan {
    rewrites: Vec<Rewrite>,
    /// A higher generation has all that is needed.
    replaced: Vec<CondemnedSegment>,
}

impl CollectionRun {
    /// Purge::Assumed: only counts what would be done.
    pub(super) async fn compact_all(
        &mut self,
        purge: Purge,
        progress: &mut (impl FnMut(CollectionProgress) + Send),
    ) -> Result<(), VaultError> {
        if !self.held.is_empty() {
            return Ok(());
        }
        let machines = self.vault.machines().await?;
        let known = self.vault.condemned_readably().await?;
        let due: Vec<Uuid> = machines.iter().copied().filter(|machine| self.is_due(*machine)).collect();
        for machine in due {
            let plan = match self.plan_machine(machine, &known).await {
                Ok(plan) => plan,
                // Restores would find it as well. Nothing of the machine is replaced until it reads again.
                Err(error) if error.is_damage() => {
                    warn!(%machine, error = &error as &dyn std::error::Error, "not compacted: damaged");
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.dead.extend(plan.replaced);
            for rewrite in plan.rewrites {
                if self.report.compacted_bytes >= MAX_FREED {
                    return Ok(());
                }
                let (from, replaces) = (rewrite.from, rewrite.replaces.clone());
                let gain = match purge {
                    Purge::Assumed => rewrite.gain,
                    Purge::Decided => match self.vault.rewrite(rewrite).await {
                        Ok(Some(gain)) => gain,
                        Ok(None) => continue,
                        Err(error) if error.is_damage() => {
                            warn!(
                                segment = from.name(),
                                error = &error as &dyn std::error::Error,
                                "not compacted: damaged"
                            );
                            continue;
                        }
                        // The next collection has the room that this one makes.
                        Err(error) if error.is_no_space() => {
                            warn!(error = &error as &dyn std::error::Error, "no room to compact");
                            return Ok(());
                        }
                        Err(error) => return Err(error),
                    },
                };
                self.dead.extend(replaces);
                self.report.compacted_segments += 1;
                self.report.compacted_bytes += gain;
                progress(CollectionProgress {
                    machines_done: machines.len(),
                    machines: machines.len(),
                    condemned_bytes: self.report.condemned_bytes,
                    compacted_bytes: self.report.compacted_bytes,
                    read_bytes: self.read_bytes(),
                });
            }
        }
        Ok(())
    }

    fn is_due(&self, machine: Uuid) -> bool {
        match self.options.compaction {
            Compaction::All => true,
            Compaction::Due => {
                (machine.as_u128() % TURNS + u128::from(self.collection.epoch)).is_multiple_of(TURNS)
            }
        }
    }

    /// Looks at a machine anew: what is needed of it now, after all machines were looked at.
    async fn plan_machine(
        &mut self,
        machine: Uuid,
        known: &HashSet<CondemnedSegment>,
    ) -> Result<Plan, VaultError> {
        let purged: BTreeSet<u64> = self
            .report
            .purged
            .iter()
            .filter(|purged| purged.machine == machine)
            .map(|purged| purged.seq)
            .collect();
        let mark = self.vault.mark(machine, &purged, Look::First, &self.options, &mut self.lent).await?;
        let least_gain = self.options.least_gain;
        let segments: Vec<(AnyGeneration, Generations)> = mark
            .generations()
            .into_iter()
            .filter(|(segment, _)| segment.1 <= mark.newest && !self.lent.segments.contains(segment))
            .filter(|((_, seq, number), _)| !mark.retained.contains(&(*seq, *number)))
            .filter(|(_, generations)| may_gain(generations, least_gain))
            .collect();
        let mut plan = Plan::default();
        for part in segments.chunks(TOGETHER) {
            // More is not done now, so more is not remembered.
            if plan.rewrites.iter().map(|rewrite| rewrite.gain).sum::<u64>() >= MAX_FREED {
                break;
            }
            let wanted = part.iter().map(|((_, seq, number), _)| (*seq, *number)).collect();
            let mut needed = self.vault.blocks_needed(&mark.points, &wanted).await?;
            for (segment, generations) in part {
                let needed = needed.remove(&(segment.1, segment.2)).unwrap_or_default();
                self.vault.plan_segment(*segment, generations, needed, least_gain, known, &mut plan).await?;
            }
        }
        // What gains most comes first.
        plan.rewrites.sort_unstable_by_key(|rewrite| std::cmp::Reverse(rewrite.gain));
        Ok(plan)
    }
}

impl Vault {
    async fn plan_segment(
        &self,
        (machine, seq, number): AnyGeneration,
        generations: &Generations,
        needed: Needed,
        least_gain: u64,
        condemned: &HashSet<CondemnedSegment>,
        plan: &mut Plan,
    ) -> Result<(), VaultError> {
        let Some(highest) = generations.keys().next_back() else { return Ok(()) };
        for (generation, size) in generations.iter().rev() {
            let from = SegmentId { machine, seq, number, generation: *generation };
            let segment = match self.read_segment(from).await {
                Ok(segment) => segment,
                Err(error) if error.is_damage() => {
                    tell_damaged(from, &error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if !needed.is_in(&segment) {
                continue;
            }
            let not_condemned = |generation: &u32| {
                let segment = CondemnedSegment { machine, seq, number, generation: *generation };
                (!condemned.contains(&segment)).then_some(segment)
            };
            let gain = size.saturating_sub(needed.bytes_of(&segment));
            if gain >= least_gain && gain * 100 >= size * DEAD_PERCENT {
                let Some(generation) = highest.checked_add(1) else { return Ok(()) };
                let replaces = generations.keys().filter_map(not_condemned).collect();
                plan.rewrites.push(Rewrite { from, generation, replaces, needed: Arc::new(needed), gain });
                return Ok(());
            }
            let lower = generations.range(..generation).map(|(generation, _)| generation);
            let lower: Vec<_> = lower.filter_map(not_condemned).collect();
            if !lower.is_empty() {
                // Its collector may have been killed before it did so.
                match self.read_back(from).await {
                    Err(error) if error.is_damage() => tell_damaged(from, &error),
                    read => {
                        read?;
                        plan.replaced.extend(lower);
                    }
                }
            }
            return Ok(());
        }
        Ok(())
    }
}

fn tell_damaged(segment: SegmentId, error: &VaultError) {
    debug!(segment = segment.name(), error = error as &dyn std::error::Error, "not compacted");
}

/// Whether it is worth a look: many are smaller than what has to be gained.
fn may_gain(generations: &Generations, least: u64) -> bool {
    generations.len() > 1 || generations.values().any(|size| *size >= least)
}
