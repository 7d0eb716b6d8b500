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
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::error::chain;
use crate::segment::Listed;
use crate::segment_id::SegmentId;
use crate::standing::PointState;
use crate::{Point, PointStatus, Vault, VaultError};

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
    /// Points without one, and their hashes; whole if all their segments were read.
    pub sound: BTreeMap<Uuid, BTreeMap<u64, [u8; 32]>>,
    /// Segments of which something is damaged, by the machine whose points name them.
    pub damaged_segments: BTreeMap<Uuid, BTreeSet<SegmentId>>,
}

/// Parts in which a machine is read, about. How its points hang together is found out anew for each of them.
const PARTS: usize = 16;

/// Which segments are read whole.
#[derive(Clone, Copy)]
enum Reading {
    To(VerifyDepth),
    Part { after: Option<SegmentId> },
}

impl Reading {
    /// Of those that points need and that nobody knows to be whole; with the last one of a part that is not the last part.
    fn choose(
        self,
        needed: &BTreeSet<SegmentId>,
        whole: &HashSet<SegmentId>,
    ) -> (Vec<SegmentId>, Option<SegmentId>) {
        let unknown = needed.iter().copied().filter(|id| !whole.contains(id));
        match self {
            Self::To(depth) => (unknown.filter(|id| depth.reads(*id)).collect(), None),
            Self::Part { after } => {
                let mut wanted = unknown.filter(|id| Some(*id) > after);
                let part: Vec<SegmentId> = wanted.by_ref().take(needed.len().div_ceil(PARTS)).collect();
                let read_to = wanted.next().and(part.last().copied());
                (part, read_to)
            }
        }
    }
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

/// Segments of which one verification remembers that they are whole: some 50 MiB, of 32 TiB of segments. Further ones are read again
/// for each machine that borrows of them.
const REMEMBERED: usize = 1 << 20;

/// A verification of one machine after the other: what several of them need is read once, unless it is damaged.
#[derive(Debug)]
pub struct Verification {
    vault: Vault,
    pace: VerifyPace,
    whole: HashSet<SegmentId>,
    since: Instant,
}

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
        self.damaged_segments.extend(other.damaged_segments);
        for finding in other.findings {
            self.add(finding);
        }
    }

    /// How much was found.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.findings.len() as u64 + self.more_findings
    }

    /// Takes in something else that was found.
    pub fn add(&mut self, finding: Finding) {
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
        progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<VerifyReport, VaultError> {
        self.verification(pace).verify(scope, depth, progress).await
    }

    /// Begins to verify one machine after the other.
    #[must_use]
    pub fn verification(&self, pace: VerifyPace) -> Verification {
        // What was read long ago says nothing about what is there now.
        Verification { vault: self.renewed(None), pace, whole: HashSet::new(), since: Instant::now() }
    }

    /// Which points of a machine need what is damaged in these segments: of points that share them damage may have been found in one
    /// only, such as by a restore.
    ///
    /// # Errors
    /// As [`Vault::verify`].
    pub async fn points_damaged_by(
        &self,
        machine: Uuid,
        segments: &BTreeSet<SegmentId>,
    ) -> Result<Vec<(u64, String)>, VaultError> {
        let vault = self.renewed(None);
        // Whatever makes up for one of them is read as well.
        let (mut listed, mut copies) = (Listed::default(), segments.clone());
        for id in segments {
            copies.extend(listed.copies(&vault, SegmentId { generation: 0, ..*id }).await?);
        }
        let copies: Vec<SegmentId> = copies.into_iter().collect();
        let read = vault.read_needed(&copies, VerifyPace::Full, &mut |_, _, _| {}).await?;
        let points: Vec<Point> = vault
            .points(machine)
            .await?
            .into_iter()
            .filter_map(|status| match status {
                PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => Some(point),
                PointStatus::Damaged { .. } => None,
            })
            .collect();
        let found = vault.affected(&points, read.damaged, &[]).await?;
        vault.check_readable().await?;
        Ok(found.into_iter().filter_map(|(point, reason)| Some((point?.seq, reason))).collect())
    }
}

impl Verification {
    /// One at the same pace that has seen nothing.
    #[must_use]
    pub fn anew(&self) -> Self {
        self.vault.verification(self.pace)
    }

    /// Goes on later with nothing but what segments were seen to be whole, for no longer than this since it began.
    pub fn renew(&mut self, remember: Duration) {
        self.vault = self.vault.renewed(None);
        if self.since.elapsed() >= remember {
            *self = self.anew();
        }
    }

    /// Reads a part of what a machine's points need: some segments, in their order, that come after this one. Answers also the last
    /// one that it read, if others come after it.
    ///
    /// # Errors
    /// As [`Vault::verify`].
    pub async fn verify_part(
        &mut self,
        machine: Uuid,
        after: Option<SegmentId>,
    ) -> Result<(VerifyReport, Option<SegmentId>), VaultError> {
        let mut report = VerifyReport { machines: 1, ..VerifyReport::default() };
        let scope = VerifyScope::Machine(machine);
        let part = Reading::Part { after };
        let read_to = self.verify_machine(machine, scope, part, &mut |_, _, _| {}, &mut report).await?;
        Ok((report, read_to))
    }

    /// As [`Vault::verify`].
    ///
    /// # Errors
    /// As [`Vault::verify`].
    pub async fn verify(
        &mut self,
        scope: VerifyScope,
        depth: VerifyDepth,
        mut progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<VerifyReport, VaultError> {
        self.vault.check_present().await?;
        let machines = match scope {
            VerifyScope::Vault => self.vault.machines().await?,
            VerifyScope::Machine(machine) | VerifyScope::Point(machine, _) => vec![machine],
        };
        let mut report = VerifyReport { machines: machines.len(), ..VerifyReport::default() };
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
            self.verify_machine(*machine, scope, Reading::To(depth), &mut tell, &mut report).await?;
        }
        Ok(report)
    }

    async fn verify_machine(
        &mut self,
        machine: Uuid,
        scope: VerifyScope,
        reading: Reading,
        tell: &mut (impl FnMut(usize, usize, u64) + Send),
        report: &mut VerifyReport,
    ) -> Result<Option<SegmentId>, VaultError> {
        let vault = &self.vault;
        let wanted = |seq| !matches!(scope, VerifyScope::Point(_, only) if only != seq);
        let statuses: Vec<_> =
            vault.points(machine).await?.into_iter().filter(|status| wanted(status.seq())).collect();
        if let (VerifyScope::Point(_, seq), true) = (scope, statuses.is_empty()) {
            return Err(VaultError::Missing { object: crate::name::point(machine, seq) });
        }
        report.points += statuses.len() as u64;
        let mut findings = Vec::new();
        let mut points: Vec<Point> = Vec::new();
        let mut sound = BTreeMap::new();
        for status in statuses {
            match status {
                PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => {
                    sound.insert(point.seq, point.hash);
                    points.push(point);
                }
                PointStatus::Damaged { seq, error } => {
                    let point = DamagedPoint { seq, id: None, disk: None, ranges: Vec::new() };
                    findings.push((Some(point), chain(&error)));
                }
            }
        }
        let structure = Structure::read(vault, &points).await?;
        report.segments += structure.segments.len() as u64;
        let (chosen, read_to) = reading.choose(&structure.segments, &self.whole);
        let read = vault.read_needed(&chosen, self.pace, tell).await?;
        report.read_segments += chosen.len() as u64;
        report.read_bytes += read.bytes;
        findings.extend(structure.findings);
        let mut damaged = read.damaged;
        let room = REMEMBERED.saturating_sub(self.whole.len());
        self.whole.extend(chosen.into_iter().filter(|id| !damaged.contains_key(id)).take(room));
        damaged.extend(structure.damaged);
        let segments: BTreeSet<SegmentId> = damaged.keys().copied().collect();
        let affected = vault.affected(&points, damaged, &findings).await?;
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
                sound.remove(&point.seq);
                if let Entry::Vacant(entry) = purged.entry(point.seq) {
                    let standing = vault.standing(machine, point.seq).await;
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
        if report.damaged.contains_key(&machine) {
            report.damaged_segments.insert(machine, segments);
        }
        report.sound.insert(machine, sound);
        // Where there is no vault any more, everything is missing and nothing is damaged.
        vault.check_readable().await?;
        Ok(read_to)
    }
}
