//! Finding what a machine's points and backups need.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use object_store::ObjectMeta;
use uuid::Uuid;

use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::record::DeltaRef;

use crate::delta::segments_needed;
use crate::segment::AnyGeneration;
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
    pub(super) read_bytes: u64,
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
        let seen: HashSet<u64> = names.seqs.iter().copied().collect();
        for seq in options.catalogued.get(&machine).into_iter().flatten() {
            if !seen.contains(seq) {
                return Err(VaultError::Missing { object: name::point(machine, *seq) });
            }
        }
        let mut points = BTreeMap::new();
        let mut gone = HashMap::new();
        let mut aborted = BTreeSet::new();
        let mut locked = BTreeSet::new();
        self.settle_decisions(machine, &names.seqs).await?;
        for seq in &names.seqs {
            let standing = self.standing_by(machine, *seq, names.events.get(seq)).await?;
            if standing.lock.is_some_and(|lock| lock.until > options.now) {
                locked.insert(*seq);
            }
            let is_purged = standing.state == PointState::Purged || purged.contains(seq);
            match self.look(machine, *seq).await {
                Ok(Some(Outcome::Point(point))) if is_purged => drop(gone.insert(*seq, point)),
                Ok(Some(Outcome::Point(point))) => drop(points.insert(*seq, point)),
                Ok(Some(Outcome::Aborted { .. })) => drop(aborted.insert(*seq)),
                Ok(None) => return Err(VaultError::Missing { object: name::point(machine, *seq) }),
                // What a damaged point that was given up needed nobody can restore.
                Err(error) if error.is_damage() && is_purged => {}
                Err(error) => return Err(error),
            }
        }
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
        lent.looked_at.insert(machine, seen.clone());
        let mut mark = Mark { retained, ..Mark::default() };
        for seq in opens {
            if seen.contains(&seq) {
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
            if let Some(base) = open.base
                && let Some(point) = gone.remove(&base.seq)
            {
                self.mark_point(&point, &mut live, lent).await?;
                mark.points.push(point);
            }
        }
        mark.newest = newest;
        mark.points.extend(points.into_values());
        live.whole.extend(young_leftovers(&segments, &aborted, newest, options));
        for meta in segments {
            let (Some(seq), Some((number, generation))) =
                (name::seq_folder_of(&meta.location), name::segment_of(&meta.location))
            else {
                continue;
            };
            let segment = CondemnedSegment { machine, seq, number, generation };
            // If nobody decided about its backup, it is under way.
            if live.whole.contains(&seq) || !seen.contains(&seq) {
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
        lent: &mut Lent,
    ) -> Result<Vec<(u64, Option<u64>)>, VaultError> {
        let opens = self.open_seqs(machine).await?;
        let names = self.point_names(machine).await?;
        self.settle_decisions(machine, &names.seqs).await?;
        let mut live = Live::default();
        for seq in &names.seqs {
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
        for seq in opens.into_iter().filter(|seq| names.seqs.binary_search(seq).is_err()) {
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
            if let Some(base) = open.base
                && let Some(Outcome::Point(point)) = self.look(machine, base.seq).await?
            {
                self.mark_point(&point, &mut live, lent).await?;
            }
        }
        Ok(undecided)
    }

    /// What was decided and is forgotten by a power cut would be undecided again; all of it is in one directory.
    async fn settle_decisions(&self, machine: Uuid, decided: &[u64]) -> Result<(), VaultError> {
        match decided.first() {
            Some(seq) => self.storage().settle(&name::point(machine, *seq)).await,
            None => Ok(()),
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
        lent.read_bytes += root.encode().len() as u64;
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
