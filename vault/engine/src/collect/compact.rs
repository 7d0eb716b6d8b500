//! Replacing segments of which most is dead.
//!
//! What points need of a segment is written under the same number and the next generation, and read back. Cells keep their numbers
//! and hashes, so deltas that name the old one stay true: readers take any later generation that has what they need. The old one is
//! condemned like any other and waits for the same backups. It goes only while a higher generation that nobody
//! condemned has all that points need then: whatever several collectors do, the highest one stays, so no generation comes twice.
//!
//! Segments that other machines borrow from are left as they are, and so are those that a backup may go on with, and those that the
//! storage retains for points under lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tracing::{debug, warn};
use uuid::Uuid;

use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::kept::Kept;
use holdfast_vault_format::segment::CellKind;

use crate::object::{self, Created};
use crate::segment::{AnyGeneration, Segment, SegmentId, StoredCells};
use crate::writer::SegmentWriter;
use crate::{Vault, VaultError, VerifyPace, crash_point};

use super::mark::{Look, Mark};
use super::needed::{Needed, NeededSegments};
use super::{CollectionProgress, CollectionRun, Compaction, Purge};

/// A segment is replaced when so much of it is dead.
const DEAD_PERCENT: u64 = 35;
/// A machine's turn comes every so many collections.
const TURNS: u128 = 7;
/// Segments that are looked at together: bounds the memory for what is needed of them to some 64 MiB.
const TOGETHER: usize = 16 << 10;
/// Bytes that one collection frees so at most; the next one goes on.
const MAX_FREED: u64 = 64 << 30;
/// Of what is written: it is read rarely and kept long.
const LEVEL: i32 = 3;
/// So many names may have been taken for a segment that is to be replaced, by collectors that were killed.
const GENERATIONS_TRIED: usize = 4;

/// Generations of a segment that are there, with their sizes in bytes.
type Generations = BTreeMap<u32, u64>;

/// What is to be done about one segment.
#[derive(Debug)]
struct Rewrite {
    from: SegmentId,
    generation: u32,
    /// All generations that are there and not condemned.
    replaces: Vec<CondemnedSegment>,
    needed: Arc<Needed>,
    /// Bytes, about.
    gain: u64,
}

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
                    read_bytes: self.report.read_bytes,
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
        let segments: Vec<(AnyGeneration, Generations)> = generations(&mark)
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

    /// Writes what is needed of a segment and reads it back. Answers the bytes that it gains, or `None` if the segment went
    /// meanwhile.
    async fn rewrite(&self, rewrite: Rewrite) -> Result<Option<u64>, VaultError> {
        let Rewrite { from, generation, needed, .. } = rewrite;
        for generation in (generation..).take(GENERATIONS_TRIED) {
            match self.rewrite_as(from, SegmentId { generation, ..from }, &needed).await {
                // Its collector is at it, or was killed: if it comes after all, a higher one makes it superfluous.
                Err(VaultError::Unfinished { object }) => {
                    warn!(object, "another collector has begun to compact a segment");
                }
                rewritten => return rewritten,
            }
        }
        Ok(None)
    }

    async fn rewrite_as(
        &self,
        from: SegmentId,
        id: SegmentId,
        needed: &Arc<Needed>,
    ) -> Result<Option<u64>, VaultError> {
        let (segment, bytes) = match self.left_of(from, id, needed).await {
            Ok(left) => left,
            Err(VaultError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Another collector may have been faster: what it wrote counts if it has what is needed.
        if object::create(self.storage(), &id.name(), bytes).await? == Created::Now {
            self.check_mounted().await?;
        }
        crash_point("engine::segment_replaced");
        self.read_back(id).await?;
        let replacement = self.read_segment(id).await?;
        if replacement.root != segment.root || !needed.is_in(&replacement) {
            let detail = "it does not have what is needed of the one that it replaces";
            return Err(VaultError::mismatch(&replacement.name, detail));
        }
        Ok(Some(segment.size.saturating_sub(replacement.size)))
    }

    /// A segment, and what is needed of it as one of that id.
    async fn left_of(
        &self,
        from: SegmentId,
        id: SegmentId,
        needed: &Arc<Needed>,
    ) -> Result<(Arc<Segment>, Bytes), VaultError> {
        let segment = Arc::new(self.read_segment(from).await?);
        let mut writer = SegmentWriter::new(
            &self.inner.ring,
            id,
            segment.directory.snapshot,
            Vec::new(),
            &Arc::default(),
        )?;
        for cells in segment.chunks()? {
            let stored = StoredCells::read(self, Arc::clone(&segment), cells.start..=cells.end - 1).await?;
            let needed = Arc::clone(needed);
            let write = move || {
                for cell in cells {
                    leave(&stored, cell, &needed, &mut writer)?;
                }
                Ok::<_, VaultError>(writer)
            };
            writer = crate::blocking(write).await?;
        }
        Ok((segment, writer.finish()?.bytes))
    }

    /// Reads all of a segment as its disk has it.
    async fn read_back(&self, id: SegmentId) -> Result<(), VaultError> {
        self.inner.segments.forget(id);
        let read = self.read_segments(&[id], VerifyPace::Full, &mut |_, _, _| {}).await?;
        read.reason().map_or(Ok(()), |reason| Err(VaultError::mismatch(&id.name(), reason)))
    }

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
        for (segment, generations) in generations(mark) {
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
                    self.storage().settle(&id.name()).await?;
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

fn tell_damaged(segment: SegmentId, error: &VaultError) {
    debug!(segment = segment.name(), error = error as &dyn std::error::Error, "not compacted");
}

/// Whether it is worth a look: many are smaller than what has to be gained.
fn may_gain(generations: &Generations, least: u64) -> bool {
    generations.len() > 1 || generations.values().any(|size| *size >= least)
}

/// What deltas name, by segment; generations ascend.
fn generations(mark: &Mark) -> BTreeMap<AnyGeneration, Generations> {
    let mut segments: BTreeMap<AnyGeneration, Generations> = BTreeMap::new();
    for (segment, size) in &mark.named {
        segments
            .entry(SegmentId::from(*segment).any_generation())
            .or_default()
            .insert(segment.generation, *size);
    }
    segments
}

/// Writes what is needed of a cell, which is among these.
fn leave(
    stored: &StoredCells,
    number: u32,
    needed: &Needed,
    writer: &mut SegmentWriter,
) -> Result<(), VaultError> {
    let blocks = needed.of(number as usize);
    let mut entry = *stored.segment.entry(number)?;
    let data = match entry.kind {
        CellKind::Data { codec, .. } => {
            let data = stored.open(number)?;
            let plain = stored.plain(number, codec, &data)?;
            let (codec, data) = Kept::whole(&plain).encode(entry.plain_len, blocks, LEVEL);
            entry.kind = CellKind::Kept { codec, kept: blocks };
            data
        }
        CellKind::Kept { codec, kept } => {
            let data = stored.open(number)?;
            let left = stored.kept(number, codec, kept, &data)?;
            let (codec, data) = left.encode(entry.plain_len, blocks, LEVEL);
            entry.kind = CellKind::Kept { codec, kept: blocks };
            data
        }
        CellKind::Meta if !blocks.is_empty() => stored.open(number)?,
        CellKind::Meta | CellKind::Zero { .. } | CellKind::Known { .. } | CellKind::Gone => {
            (entry.kind, entry.plain_len, entry.hash) = (CellKind::Gone, 0, [0; 32]);
            Vec::new()
        }
    };
    writer.left(entry, &data)
}

#[cfg(test)]
mod tests;
