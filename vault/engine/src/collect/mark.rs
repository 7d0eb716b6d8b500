//! Finding what a machine's points and backups need.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use object_store::ObjectMeta;
use uuid::Uuid;

use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::record::{DeltaRef, PointRef};

use crate::became::Became;
use crate::delta::segments_needed;
use crate::event::PointNames;
use crate::segment_id::{AnyGeneration, SegmentId};
use crate::settled::Fate;
use crate::standing::PointState;
use crate::{Outcome, Point, Vault, VaultError, name, object};

use super::CollectOptions;

/// What is there of a machine and what of it nothing needs. Segments are with their sizes in bytes.
#[derive(Debug, Default)]
pub(super) struct Mark {
    pub(super) dead: Vec<(CondemnedSegment, u64)>,
    /// What has to stay as it is: a backup may go on with it.
    pub(super) whole: Vec<CondemnedSegment>,
    /// What deltas name, in every generation that is there: of these, one that has the blocks that points need has to stay.
    pub(super) named: Vec<(CondemnedSegment, u64)>,
    /// Backup and number of those that points under lock need, where the storage enforces that: nothing that it retains is worth
    /// replacing.
    pub(super) retained: HashSet<(u64, u32)>,
    /// The points that need it, also purged ones that a backup builds upon.
    pub(super) points: Vec<Point>,
    /// The newest point that is not purged, or 0.
    pub(super) newest: u64,
    /// Backups without an outcome, with the largest number of what is condemned that they know; `None` if that cannot be told.
    pub(super) undecided: Vec<(u64, Option<u64>)>,
    /// Decided backups whose `open` object is of no more use.
    pub(super) settled: Vec<u64>,
}

/// Generations of a segment that are there, with their sizes in bytes.
pub(super) type Generations = BTreeMap<u32, u64>;

/// Which look at a machine it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    First,
    /// At what was condemned: backups that know it took none of it over, the others are waited for.
    Again,
}

/// What points need of other machines than their own, of all machines together.
#[derive(Debug, Default)]
pub(super) struct Lent {
    pub(super) segments: HashSet<AnyGeneration>,
    /// Backups whose outcome was looked at, by machine.
    looked_at: HashMap<Uuid, HashSet<u64>>,
}

/// What has to stay.
#[derive(Default)]
struct Live {
    /// Backups all of whose segments stay.
    whole: HashSet<u64>,
    /// Backup and number.
    segments: HashSet<(u64, u32)>,
    /// Deltas that were read, by backup and hash.
    deltas: HashSet<(u64, [u8; 32])>,
}

impl Mark {
    /// What deltas name, by segment; generations ascend.
    pub(super) fn generations(&self) -> BTreeMap<AnyGeneration, Generations> {
        let mut segments: BTreeMap<AnyGeneration, Generations> = BTreeMap::new();
        for (segment, size) in &self.named {
            segments
                .entry(SegmentId::from(*segment).any_generation())
                .or_default()
                .insert(segment.generation, *size);
        }
        segments
    }
}

impl Vault {
    /// Marks a machine. `purged`: points that count as purged, whatever their events say.
    ///
    /// Segments are listed before the backups that wrote them, and those before the points: whatever is there without an outcome
    /// belongs to a backup that is under way.
    pub(super) async fn mark(
        &self,
        machine: Uuid,
        purged: &BTreeSet<u64>,
        look: Look,
        options: &CollectOptions,
        lent: &mut Lent,
    ) -> Result<Mark, VaultError> {
        let segments = object::list_meta(self.store(), &format!("seg/{machine}")).await?;
        let opens = self.open_seqs(machine).await?;
        let names = self.point_names(machine).await?;
        // An empty folder where the vault was mounted would look like a vault in which nothing is needed.
        self.check_present().await?;
        let mut points = BTreeMap::new();
        let mut aborted = BTreeSet::new();
        let mut locked = BTreeSet::new();
        self.settle_decisions(machine, &names).await?;
        for seq in names.seqs.keys().copied().filter(|seq| !purged.contains(seq)) {
            match self.became(machine, seq, &names).await? {
                Became::Point(point, lock) => {
                    if lock.is_some_and(|lock| lock.until > options.now) {
                        locked.insert(seq);
                    }
                    points.insert(seq, point);
                }
                Became::Settled(Fate::Aborted) => drop(aborted.insert(seq)),
                Became::Settled(Fate::Purged) => {}
            }
        }
        let is_there = |seq: &u64| points.contains_key(seq) || purged.contains(seq);
        self.check_catalogued(machine, &names, is_there, options).await?;
        let newest = points.keys().next_back().copied().unwrap_or(0);
        let mut live = Live::default();
        let (first, others): (Vec<&Point>, Vec<&Point>) = points
            .values()
            .partition(|point| self.storage().object_lock().is_some() && locked.contains(&point.seq));
        for point in first {
            self.mark_point(point, &mut live, lent).await?;
        }
        let retained = live.segments.clone();
        for point in others {
            self.mark_point(point, &mut live, lent).await?;
        }
        lent.looked_at.insert(machine, names.seqs.keys().copied().collect());
        let mut mark = Mark { retained, ..Mark::default() };
        let mut bases = BTreeMap::new();
        for seq in opens {
            if names.seqs.contains_key(&seq) {
                // Those since the newest point say what can be taken over.
                if seq <= newest {
                    mark.settled.push(seq);
                }
                continue;
            }
            live.whole.insert(seq);
            let open = match self.read_open(machine, seq).await {
                Ok(open) => open,
                // Concluded and settled by others since.
                Err(VaultError::Missing { .. }) => {
                    mark.undecided.push((seq, None));
                    continue;
                }
                Err(error) => return Err(error),
            };
            mark.undecided.push((seq, Some(open.epoch)));
            if look == Look::First {
                live.whole.extend(open.adopted);
            }
            if let Some(PointRef { seq: base, .. }) = open.base
                && !points.contains_key(&base)
                && !bases.contains_key(&base)
            {
                let point = self.base(machine, base).await?;
                self.mark_point(&point, &mut live, lent).await?;
                bases.insert(base, point);
            }
        }
        mark.newest = newest;
        mark.points.extend(bases.into_values().chain(points.into_values()));
        live.whole.extend(young_leftovers(&segments, &aborted, newest, options));
        for meta in segments {
            let (Some(seq), Some((number, generation))) =
                (name::seq_folder_of(&meta.location), name::segment_of(&meta.location))
            else {
                continue;
            };
            let segment = CondemnedSegment { machine, seq, number, generation };
            // If nobody decided about its backup, it is under way.
            if live.whole.contains(&seq) || !names.seqs.contains_key(&seq) {
                mark.whole.push(segment);
            } else if live.segments.contains(&(seq, number)) {
                mark.named.push((segment, meta.size));
            } else {
                mark.dead.push((segment, meta.size));
            }
        }
        Ok(mark)
    }

    /// Looks at what a machine needs of others since it was marked. Answers its backups without an outcome as [`Mark::undecided`].
    pub(super) async fn mark_lent(
        &self,
        machine: Uuid,
        options: &CollectOptions,
        lent: &mut Lent,
    ) -> Result<Vec<(u64, Option<u64>)>, VaultError> {
        let opens = self.open_seqs(machine).await?;
        let names = self.point_names(machine).await?;
        self.check_catalogued(machine, &names, |seq| names.seqs.contains_key(seq), options).await?;
        self.settle_decisions(machine, &names).await?;
        let mut live = Live::default();
        for seq in names.seqs.keys() {
            if lent.looked_at.get(&machine).is_some_and(|looked_at| looked_at.contains(seq)) {
                continue;
            }
            let looked = match self.look(machine, *seq).await {
                Ok(Some(Outcome::Point(point))) => self.mark_point(&point, &mut live, lent).await,
                Ok(Some(Outcome::Aborted { .. })) => Ok(()),
                Ok(None) => Err(VaultError::Missing { object: name::point(machine, *seq) }),
                Err(error) => Err(error),
            };
            if let Err(error) = looked {
                // Another collector may have purged it and removed what it needed.
                let standing = self.standing(machine, *seq).await;
                if !error.is_damage()
                    || standing.map_or(true, |standing| standing.state != PointState::Purged)
                {
                    return Err(error);
                }
            }
            lent.looked_at.entry(machine).or_default().insert(*seq);
        }
        let mut undecided = Vec::new();
        for seq in opens.into_iter().filter(|seq| !names.seqs.contains_key(seq)) {
            let open = match self.read_open(machine, seq).await {
                Ok(open) => open,
                Err(VaultError::Missing { .. }) => {
                    undecided.push((seq, None));
                    continue;
                }
                Err(error) => return Err(error),
            };
            undecided.push((seq, Some(open.epoch)));
            // It may have been purged since.
            if let Some(base) = open.base {
                let point = self.base(machine, base.seq).await?;
                self.mark_point(&point, &mut live, lent).await?;
            }
        }
        Ok(undecided)
    }

    /// `is_there`: whether a point is known to be, or purged.
    ///
    /// # Errors
    /// [`VaultError::Missing`] if the catalogue has a point of the machine that the storage lost and nobody gave up.
    async fn check_catalogued(
        &self,
        machine: Uuid,
        names: &PointNames,
        is_there: impl Fn(&u64) -> bool,
        options: &CollectOptions,
    ) -> Result<(), VaultError> {
        let catalogued = options.catalogued.get(&machine).into_iter().flatten();
        for seq in catalogued.filter(|seq| !is_there(seq)) {
            let standing = self.standing_by(machine, *seq, names.events.get(seq)).await?;
            if standing.state != PointState::Purged {
                return Err(VaultError::Missing { object: name::point(machine, *seq) });
            }
        }
        Ok(())
    }

    /// What was decided and is forgotten by a power cut would be undecided again; all of it is in one directory.
    async fn settle_decisions(&self, machine: Uuid, names: &PointNames) -> Result<(), VaultError> {
        match names.seqs.keys().next() {
            Some(seq) => self.storage().make_durable(&name::point(machine, *seq)).await,
            None => Ok(()),
        }
    }

    /// The point that a backup under way builds upon: its gateway may have it in memory, whatever became of it since.
    async fn base(&self, machine: Uuid, seq: u64) -> Result<Point, VaultError> {
        match self.look(machine, seq).await? {
            Some(Outcome::Point(point)) => Ok(point),
            _ => Err(VaultError::Missing { object: name::point(machine, seq) }),
        }
    }

    async fn mark_point(&self, point: &Point, live: &mut Live, lent: &mut Lent) -> Result<(), VaultError> {
        for disk in &point.disks {
            for delta in &disk.stack {
                if live.deltas.insert((delta.seq, delta.hash)) {
                    self.mark_delta(point.machine, delta, live, lent).await?;
                }
            }
        }
        Ok(())
    }

    /// The segments that a delta lies in and those that it names.
    async fn mark_delta(
        &self,
        machine: Uuid,
        delta: &DeltaRef,
        live: &mut Live,
        lent: &mut Lent,
    ) -> Result<(), VaultError> {
        let root = self.delta_root(machine, delta).await?;
        for segment in segments_needed(machine, delta, &root) {
            match segment {
                (owner, seq, number) if owner == machine => drop(live.segments.insert((seq, number))),
                lent_one => drop(lent.segments.insert(lent_one)),
            }
        }
        Ok(())
    }
}

/// Aborted backups since the newest point whose segments the next attempt may take over. A wrong clock costs what is sent
/// again, never data.
fn young_leftovers(
    segments: &[ObjectMeta],
    aborted: &BTreeSet<u64>,
    newest: u64,
    options: &CollectOptions,
) -> HashSet<u64> {
    let now = options.now;
    segments
        .iter()
        .filter(|meta| {
            (now - meta.last_modified).to_std().is_ok_and(|age| age < options.keep_leftovers)
                || meta.last_modified > now
        })
        .filter_map(|meta| name::seq_folder_of(&meta.location))
        .filter(|seq| *seq > newest && aborted.contains(seq))
        .collect()
}
