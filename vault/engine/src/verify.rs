//! Looking whether points are whole before somebody needs them. Reads, and changes nothing.
//!
//! What restores a point is looked at once, however many points need it: first how the points hang together (events, points,
//! deltas, pages, directories), then, if wanted, every cell of the segments that they name. Damage is told by point, disk and
//! bytes.

mod affected;
mod data;
mod lost;
mod structure;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use uuid::Uuid;

use crate::error::chain;
use crate::segment::SegmentId;
use crate::standing::PointState;
use crate::{Point, PointStatus, Vault, VaultError};

use data::DamagedCells;
use structure::Structure;

/// Findings that are told one by one; more are only counted.
const MAX_FINDINGS: usize = 10_000;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyScope {
    Vault,
    Machine(Uuid),
    /// A machine's point.
    Point(Uuid, u64),
}

/// How closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Everything but the cells with data.
    Structure,
    /// Each segment that a point needs, whole.
    ReadData,
    /// As [`Self::Structure`], and so many of 10,000 segments whole, chosen by the seed.
    Sample { per_10_000: u32, seed: u64 },
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyPace {
    Full,
    /// One request at a time, and three times as long a pause after each as it took.
    Gentle,
}

/// How far a verification is. Bytes are of the storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    pub machines_done: usize,
    pub machines: usize,
    /// Of the machine that is looked at.
    pub segments_done: usize,
    pub segments: usize,
    /// Of segments that were read whole, so far.
    pub read_bytes: u64,
    pub findings: usize,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    pub machines: usize,
    pub points: u64,
    /// Segments that the points name, each generation of them that is there.
    pub segments: u64,
    /// Segments that were read whole.
    pub read_segments: u64,
    pub read_bytes: u64,
    pub findings: Vec<Finding>,
    /// Findings that were only counted.
    pub more_findings: u64,
    /// Points with a finding, also with one that was only counted: the first reason of each.
    pub damaged: BTreeMap<Uuid, BTreeMap<u64, String>>,
    /// Points without one; whole if all their segments were read.
    pub sound: BTreeMap<Uuid, BTreeSet<u64>>,
}

/// Something that is damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub machine: Uuid,
    /// The id, if no point of it can be read.
    pub machine_name: String,
    /// `None`: no restore needs it.
    pub point: Option<DamagedPoint>,
    /// What is damaged, and how.
    pub reason: String,
}

/// What a point loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPoint {
    pub seq: u64,
    /// `None` if the point itself cannot be read.
    pub id: Option<Uuid>,
    /// `None`: all of them.
    pub disk: Option<String>,
    /// Bytes of the disk, ascending.
    pub ranges: Vec<Range<u64>>,
}

/// What came of segments that other machines borrow: many of them may borrow the same.
type Lent = BTreeMap<SegmentId, Option<DamagedCells>>;

impl VerifyReport {
    /// Takes in what was found out about other machines.
    pub fn merge(&mut self, other: Self) {
        self.machines += other.machines;
        self.points += other.points;
        self.segments += other.segments;
        self.read_segments += other.read_segments;
        self.read_bytes += other.read_bytes;
        self.more_findings += other.more_findings;
        self.damaged.extend(other.damaged);
        self.sound.extend(other.sound);
        for finding in other.findings {
            self.add(finding);
        }
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

impl VerifyDepth {
    /// Whether all of a segment is to be read.
    fn reads(self, id: SegmentId) -> bool {
        match self {
            Self::Structure => false,
            Self::ReadData => true,
            Self::Sample { per_10_000, seed } => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&seed.to_le_bytes()).update(id.name().as_bytes());
                let mut number = [0; 8];
                number.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
                u64::from_le_bytes(number) % 10_000 < u64::from(per_10_000)
            }
        }
    }
}

impl Vault {
    /// Verifies. May run beside anything: what a collection removes meanwhile is no damage.
    ///
    /// # Errors
    /// If the storage cannot be read, or what is asked for is not there; damage is no error but a finding.
    pub async fn verify(
        &self,
        scope: VerifyScope,
        depth: VerifyDepth,
        pace: VerifyPace,
        mut progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<VerifyReport, VaultError> {
        self.check_present().await?;
        // What was read long ago says nothing about what is there now.
        let vault = self.renewed(None);
        let machines = match scope {
            VerifyScope::Vault => vault.machines().await?,
            VerifyScope::Machine(machine) | VerifyScope::Point(machine, _) => vec![machine],
        };
        let mut report = VerifyReport { machines: machines.len(), ..VerifyReport::default() };
        let mut lent = Lent::new();
        for (done, machine) in machines.iter().enumerate() {
            let mut so_far = VerifyProgress {
                machines_done: done,
                machines: machines.len(),
                read_bytes: report.read_bytes,
                findings: report.findings.len(),
                ..VerifyProgress::default()
            };
            progress(so_far);
            let mut tell = |segments_done, segments, read_bytes| {
                so_far = VerifyProgress {
                    segments_done,
                    segments,
                    read_bytes: so_far.read_bytes + read_bytes,
                    ..so_far
                };
                progress(so_far);
            };
            vault.verify_machine(*machine, scope, (depth, pace), &mut tell, (&mut report, &mut lent)).await?;
        }
        Ok(report)
    }

    async fn verify_machine(
        &self,
        machine: Uuid,
        scope: VerifyScope,
        (depth, pace): (VerifyDepth, VerifyPace),
        tell: &mut (impl FnMut(usize, usize, u64) + Send),
        (report, lent): (&mut VerifyReport, &mut Lent),
    ) -> Result<(), VaultError> {
        let wanted = |seq| !matches!(scope, VerifyScope::Point(_, only) if only != seq);
        let statuses: Vec<_> =
            self.points(machine).await?.into_iter().filter(|status| wanted(status.seq())).collect();
        if let (VerifyScope::Point(_, seq), true) = (scope, statuses.is_empty()) {
            return Err(VaultError::Missing { object: crate::name::point(machine, seq) });
        }
        report.points += statuses.len() as u64;
        let mut findings = Vec::new();
        let mut points: Vec<Point> = Vec::new();
        let mut seqs = BTreeSet::new();
        for status in statuses {
            seqs.insert(status.seq());
            match status {
                PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => points.push(point),
                PointStatus::Damaged { seq, error } => {
                    let point = DamagedPoint { seq, id: None, disk: None, ranges: Vec::new() };
                    findings.push((Some(point), chain(&error)));
                }
            }
        }
        let structure = Structure::read(self, &points).await?;
        report.segments += structure.segments.len() as u64;
        let (known, chosen): (Vec<SegmentId>, Vec<SegmentId>) = structure
            .segments
            .iter()
            .copied()
            .filter(|id| depth.reads(*id))
            .partition(|id| lent.contains_key(id));
        let read = self.read_needed(&chosen, pace, tell).await?;
        report.read_segments += chosen.len() as u64;
        report.read_bytes += read.bytes;
        findings.extend(structure.findings);
        let mut damaged = read.damaged;
        for id in chosen.into_iter().filter(|id| id.machine != machine) {
            lent.insert(id, damaged.get(&id).cloned());
        }
        damaged.extend(known.into_iter().filter_map(|id| Some((id, lent.get(&id)?.clone()?))));
        damaged.extend(structure.damaged);
        let affected = self.affected(&points, damaged, &findings).await?;
        findings.extend(affected);
        // A cell with metadata: what needs it is told already.
        let told: BTreeSet<String> =
            findings.iter().filter(|(point, _)| point.is_some()).map(|(_, reason)| reason.clone()).collect();
        // What the asked for point does not need is not asked for: its segments hold what others need.
        let is_wanted = |reason: &String| !matches!(scope, VerifyScope::Point(..)) && !told.contains(reason);
        findings.retain(|(point, reason)| point.is_some() || is_wanted(reason));
        let name = points.last().map_or_else(|| machine.to_string(), |point| point.machine_name.clone());
        let mut purged: BTreeMap<u64, bool> = BTreeMap::new();
        for (point, reason) in findings {
            if let Some(point) = &point {
                // Purged since it was listed: then what it needed may be gone.
                seqs.remove(&point.seq);
                if let Entry::Vacant(entry) = purged.entry(point.seq) {
                    let standing = self.standing(machine, point.seq).await;
                    entry.insert(standing.is_ok_and(|standing| standing.state == PointState::Purged));
                }
                if purged.get(&point.seq) == Some(&true) {
                    continue;
                }
                let damaged = report.damaged.entry(machine).or_default();
                damaged.entry(point.seq).or_insert_with(|| reason.clone());
            }
            report.add(Finding { machine, machine_name: name.clone(), point, reason });
        }
        report.sound.insert(machine, seqs);
        // Where there is no vault any more, everything is missing and nothing is damaged.
        self.check_present().await
    }
}
