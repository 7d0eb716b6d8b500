//! Deleting what was condemned.
//!
//! Of what was condemned, something may be needed after all: it was taken over just before, and stays condemned, or it would be taken
//! over again while a collector that looked long ago is about to delete it. So that no large set is read for years because of one
//! segment, what is left of several is condemned once more, under one number. The old sets are forgotten by a later collection, when
//! every backup under way began after that: so whatever a backup knows, it knows what is left.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use holdfast_vault_format::collection::{Condemned, CondemnedSegment};

use crate::segment_id::SegmentId;
use crate::{VaultError, name, object};

use super::CollectionRun;
use super::mark::Look;

/// Deletions under way.
const IN_FLIGHT: usize = 8;

/// What is to be done about what a collection condemned.
#[derive(Debug)]
pub(super) struct Verdict {
    number: u64,
    /// With their sizes in bytes.
    dead: Vec<(CondemnedSegment, u64)>,
    /// After that nothing is left of it, or only what is condemned under a larger number as well.
    is_over: bool,
}

/// What of the sets with larger numbers is still needed.
#[derive(Default)]
struct Later {
    segments: HashSet<CondemnedSegment>,
    /// Those of sets that every backup under way knows.
    known: HashSet<CondemnedSegment>,
}

/// What is left of sets and of no later one.
#[derive(Default)]
struct Left {
    segments: Vec<CondemnedSegment>,
    sets: usize,
    /// Whether it is less than these sets have.
    is_less: bool,
}

/// What a second look at the vault found.
#[derive(Default)]
struct Seen {
    undecided: Vec<(Uuid, u64, Option<u64>)>,
    /// Of what is condemned, with its size in bytes.
    dead: HashMap<CondemnedSegment, u64>,
    needed: HashSet<CondemnedSegment>,
}

impl CollectionRun {
    /// Decides about what this and earlier collections condemned. Any machine may have come to need it: all are looked at.
    pub(super) async fn judge(&mut self, condemned: Vec<Condemned>) -> Result<Vec<Verdict>, VaultError> {
        let all: HashSet<CondemnedSegment> =
            condemned.iter().flat_map(|set| set.segments.iter().copied()).collect();
        let owners: BTreeSet<Uuid> = all.iter().map(|segment| segment.machine).collect();
        let mut machines = self.machines().await?;
        machines.extend(&owners);
        let mut seen = Seen::default();
        for machine in machines {
            let looked = if owners.contains(&machine) {
                self.look_at_owner(machine, &all, &mut seen).await
            } else {
                self.vault.mark_lent(machine, &self.options, &mut self.lent).await
            };
            match looked {
                Ok(undecided) => {
                    seen.undecided.extend(undecided.into_iter().map(|(seq, known)| (machine, seq, known)));
                }
                Err(error) => self.hold(machine, error)?,
            }
        }
        if !self.held.is_empty() {
            return Ok(Vec::new());
        }
        let (mut later, mut left) = (Later::default(), Left::default());
        let newest_first = condemned.into_iter().rev();
        let verdicts = newest_first.map(|set| self.verdict(set, &seen, &mut later, &mut left)).collect();
        if left.is_less || left.sets > 1 {
            self.left = left.segments;
        }
        Ok(verdicts)
    }

    async fn look_at_owner(
        &mut self,
        machine: Uuid,
        condemned: &HashSet<CondemnedSegment>,
        seen: &mut Seen,
    ) -> Result<Vec<(u64, Option<u64>)>, VaultError> {
        let none = BTreeSet::new();
        let mark = self.vault.mark(machine, &none, Look::Again, &self.options, &mut self.lent).await?;
        let replaced = self.vault.replaced(&mark, condemned).await?;
        let (replaced, needed): (Vec<_>, Vec<_>) = mark
            .named
            .into_iter()
            .filter(|(segment, _)| condemned.contains(segment))
            .partition(|(segment, _)| replaced.contains(segment));
        let dead = mark.dead.into_iter().filter(|(segment, _)| condemned.contains(segment));
        seen.dead.extend(dead.chain(replaced));
        let whole = mark.whole.into_iter().filter(|segment| condemned.contains(segment));
        seen.needed.extend(whole.chain(needed.into_iter().map(|(segment, _)| segment)));
        Ok(mark.undecided)
    }

    fn verdict(&mut self, condemned: Condemned, seen: &Seen, later: &mut Later, left: &mut Left) -> Verdict {
        let number = condemned.number;
        // They may have begun before it was condemned, and use it without knowing.
        let unaware: Vec<_> = seen
            .undecided
            .iter()
            .filter(|(_, _, known)| known.is_none_or(|known| known < number))
            .map(|(machine, seq, _)| (*machine, *seq))
            .collect();
        if !unaware.is_empty() {
            for open in unaware {
                if !self.report.waiting_for.contains(&open) {
                    self.report.waiting_for.push(open);
                }
            }
            later.segments.extend(condemned.segments);
            return Verdict { number, dead: Vec::new(), is_over: false };
        }
        let is_needed = |segment: &CondemnedSegment| {
            seen.needed.contains(segment)
                || self.lent.segments.contains(&SegmentId::from(*segment).any_generation())
        };
        let all = condemned.segments.len();
        let (needed, dead): (Vec<_>, Vec<_>) = condemned.segments.into_iter().partition(is_needed);
        let dead = dead.into_iter().filter_map(|segment| Some((segment, *seen.dead.get(&segment)?)));
        let is_over = needed.iter().all(|segment| later.known.contains(segment));
        let of_none: Vec<_> =
            needed.iter().copied().filter(|segment| !later.segments.contains(segment)).collect();
        if !of_none.is_empty() {
            left.sets += 1;
            left.is_less |= of_none.len() < all;
            left.segments.extend(of_none);
        }
        later.segments.extend(&needed);
        later.known.extend(needed);
        Verdict { number, dead: dead.collect(), is_over }
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
        if verdict.is_over { vault.finish_collection(verdict.number).await } else { Ok(()) }
    }
}
