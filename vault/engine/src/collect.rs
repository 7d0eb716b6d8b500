//! Garbage collection: what no point and no backup needs is removed, without anybody waiting for it.
//!
//! The order keeps it safe. A point is purged by an event before anything that only it needs is looked for. What nothing
//! refers to is *condemned* by an object, and every backup that begins after that sees it and takes nothing of it over.
//! Backups that began before are waited for. Then it is looked once more, and only what is still dead is deleted. Nothing
//! that was condemned can come to life again, so two collectors, or one that was asleep for a year, do no harm.

mod compact;
mod epochs;
mod mark;
mod needed;
mod replaced;
mod report;
mod rewrite;
mod sweep;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{info, warn};
use uuid::Uuid;

use holdfast_vault_format::collection::{Collection, CondemnedSegment};

use crate::clock::ClockTrust;
use crate::segment_id::SegmentId;
use crate::{Vault, VaultError, name, object};

pub use report::{CollectionProgress, CollectionReport, PurgedPoint};

use mark::{Lent, Look, Mark};
use sweep::Verdict;

/// Segments that one collection condemns at most; the next one goes on. Bounds its memory and its object: 32 MiB.
const MAX_CONDEMNED: usize = 1 << 20;

/// How a collection is done.
#[derive(Clone, Debug)]
pub struct CollectOptions {
    /// What the clock says.
    pub now: DateTime<Utc>,
    /// By machine, the sequence numbers of the points that the catalogue has. While there is one that the storage does not show,
    /// nothing is deleted.
    pub catalogued: BTreeMap<Uuid, Vec<u64>>,
    pub clock: ClockTrust,
    /// What a backup without a point sent is kept for the next attempt for so long.
    pub keep_leftovers: Duration,
    pub compaction: Compaction,
    /// A segment is replaced only if it gains so many bytes: an object more is written for it.
    pub least_gain: u64,
}

/// Whose segments are replaced where much of what they hold is dead: it takes reading where all blocks of all points are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compaction {
    /// Of one machine in seven, another seventh each time.
    Due,
    All,
}

impl CollectOptions {
    /// At this time, with an empty catalogue.
    #[must_use]
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            now,
            catalogued: BTreeMap::new(),
            clock: ClockTrust::Checked,
            keep_leftovers: Duration::from_secs(7 * 24 * 3600),
            compaction: Compaction::Due,
            least_gain: 64 << 10,
        }
    }
}

/// A collection that began. Its steps are methods in the order of their declaration; between any two anything may happen.
#[derive(Debug)]
pub struct CollectionRun {
    vault: Vault,
    options: CollectOptions,
    collection: Collection,
    report: CollectionReport,
    held: HashSet<Uuid>,
    lent: Lent,
    /// Found dead.
    dead: Vec<CondemnedSegment>,
    verdicts: Vec<Verdict>,
    /// Of what was condemned before, what has to be condemned once more.
    left: Vec<CondemnedSegment>,
}

impl Vault {
    /// What a collection would do now. Writes nothing.
    ///
    /// # Errors
    /// If the vault cannot be read; for damage see [`CollectionReport::held`].
    pub async fn plan_collection(
        &self,
        options: CollectOptions,
        mut progress: impl FnMut(CollectionProgress) + Send,
    ) -> Result<CollectionReport, VaultError> {
        let vault = self.metered();
        vault.check_present().await?;
        let (collection, leap) = vault.next_collection(&options).await?;
        let mut run = CollectionRun::new(vault, options, collection, leap);
        run.report.epoch = 0;
        run.look_at_all(Purge::Assumed, &mut progress).await?;
        run.compact_all(Purge::Assumed, &mut progress).await?;
        run.report.read_bytes = run.read_bytes();
        Ok(run.report)
    }

    /// Begins a collection. May run beside anything, others included; one that was killed is finished by the next.
    ///
    /// # Errors
    /// If the vault cannot be read or written. What is damaged ends no step: see [`CollectionReport::held`].
    pub async fn begin_collection(&self, options: CollectOptions) -> Result<CollectionRun, VaultError> {
        let vault = self.metered();
        vault.check_present().await?;
        let (collection, leap) = vault.create_collection(&options).await?;
        if let Some(leap) = leap {
            warn!(
                ?leap,
                "the clock leapt since the last collection: no point is purged until an operator says that it is right"
            );
        }
        Ok(CollectionRun::new(vault, options, collection, leap))
    }
}

/// Whether points whose window is over are purged or only taken for purged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purge {
    Decided,
    Assumed,
}

impl CollectionRun {
    fn new(vault: Vault, options: CollectOptions, collection: Collection, leap: Option<Duration>) -> Self {
        let report =
            CollectionReport { epoch: collection.epoch, clock_leap: leap, ..CollectionReport::default() };
        let (held, lent) = (HashSet::new(), Lent::default());
        let (dead, verdicts, left) = (Vec::new(), Vec::new(), Vec::new());
        Self { vault, options, collection, report, held, lent, dead, verdicts, left }
    }

    /// Purges the points whose window is over and looks for what nothing needs.
    pub async fn look(
        &mut self,
        mut progress: impl FnMut(CollectionProgress) + Send,
    ) -> Result<(), VaultError> {
        self.look_at_all(Purge::Decided, &mut progress).await
    }

    /// The points that [`Self::look`] purged. Nothing of theirs is gone before [`Self::sweep`].
    #[must_use]
    pub fn purged(&self) -> &[PurgedPoint] {
        &self.report.purged
    }

    /// Writes what points need of segments that are mostly dead to new ones, and condemns the old ones with the rest.
    pub async fn compact(
        &mut self,
        mut progress: impl FnMut(CollectionProgress) + Send,
    ) -> Result<(), VaultError> {
        self.compact_all(Purge::Decided, &mut progress).await
    }

    /// Condemns it.
    pub async fn condemn(&mut self) -> Result<(), VaultError> {
        self.vault.create_condemned(std::mem::take(&mut self.dead)).await
    }

    /// Looks again at what this and earlier collections condemned: what is still dead may go where no backup that began before
    /// may use it.
    pub async fn look_again(&mut self) -> Result<(), VaultError> {
        let condemned = self.vault.unfinished_collections().await?;
        if !condemned.is_empty() && self.held.is_empty() {
            self.verdicts = self.judge(condemned).await?;
        }
        self.vault.check_present().await
    }

    /// Deletes it.
    pub async fn sweep(mut self) -> Result<CollectionReport, VaultError> {
        for verdict in std::mem::take(&mut self.verdicts) {
            self.carry_out(verdict).await?;
        }
        // What one object cannot hold stays where it is.
        self.left.truncate(MAX_CONDEMNED);
        self.vault.create_condemned(std::mem::take(&mut self.left)).await?;
        self.report.read_bytes = self.read_bytes();
        let report = self.report;
        info!(
            epoch = report.epoch,
            purged = report.purged.len(),
            compacted_bytes = report.compacted_bytes,
            condemned_bytes = report.condemned_bytes,
            deleted_bytes = report.deleted_bytes,
            read_bytes = report.read_bytes,
            waiting = report.waiting_for.len(),
            held = report.held.len(),
            "collected"
        );
        Ok(report)
    }

    fn read_bytes(&self) -> u64 {
        self.vault.storage().read_bytes()
    }

    async fn look_at_all(
        &mut self,
        purge: Purge,
        progress: &mut (impl FnMut(CollectionProgress) + Send),
    ) -> Result<(), VaultError> {
        let machines = self.machines().await?;
        let known = self.vault.condemned_readably().await?;
        let mut dead: Vec<(CondemnedSegment, u64)> = Vec::new();
        let mut dead_bytes = 0;
        for (done, machine) in machines.iter().enumerate() {
            progress(CollectionProgress {
                machines_done: done,
                machines: machines.len(),
                condemned_bytes: dead_bytes,
                compacted_bytes: 0,
                read_bytes: self.read_bytes(),
            });
            match self.look_at(*machine, purge).await {
                Ok(mark) => {
                    dead.extend(mark.dead.into_iter().filter(|(segment, _)| !known.contains(segment)));
                    if dead.len() > MAX_CONDEMNED {
                        dead.retain(|(segment, _)| {
                            !self.lent.segments.contains(&SegmentId::from(*segment).any_generation())
                        });
                        dead.truncate(MAX_CONDEMNED);
                    }
                    dead_bytes = dead.iter().map(|(_, bytes)| bytes).sum();
                }
                Err(error) => self.hold(*machine, error)?,
            }
        }
        // Others may need what their own machine does not.
        dead.retain(|(segment, _)| !self.lent.segments.contains(&SegmentId::from(*segment).any_generation()));
        if self.held.is_empty() {
            self.report.condemned_segments = dead.len() as u64;
            self.report.condemned_bytes = dead.iter().map(|(_, bytes)| bytes).sum();
            self.dead = dead.into_iter().map(|(segment, _)| segment).collect();
        }
        Ok(())
    }

    /// Machines that the storage shows or the catalogue has: one that is wholly lost may need anything of any other.
    async fn machines(&self) -> Result<BTreeSet<Uuid>, VaultError> {
        let mut machines = BTreeSet::from_iter(self.vault.machines().await?);
        machines.extend(self.options.catalogued.keys());
        Ok(machines)
    }

    async fn look_at(&mut self, machine: Uuid, purge: Purge) -> Result<Mark, VaultError> {
        let names = self.vault.point_names(machine).await?;
        if purge == Purge::Decided {
            self.conclude_lost(machine, &names).await?;
        }
        let mut purged = BTreeSet::new();
        for (seq, standing) in self.windows_over(machine, &names).await? {
            if purge == Purge::Decided && !self.vault.purge_point(machine, seq, &standing).await? {
                continue;
            }
            purged.insert(seq);
            self.report.purged.push(PurgedPoint { machine, seq });
        }
        let mark = self.vault.mark(machine, &purged, Look::First, &self.options, &mut self.lent).await?;
        if purge == Purge::Decided {
            for seq in &mark.settled {
                object::delete(self.vault.store(), &name::open(machine, *seq)).await?;
            }
        }
        Ok(mark)
    }

    /// What is damaged in a machine may need anything of any machine: nothing is condemned or deleted until it reads again, or the
    /// points that need it are purged. Anything else ends the collection.
    fn hold(&mut self, machine: Uuid, error: VaultError) -> Result<(), VaultError> {
        if !error.is_damage() {
            return Err(error);
        }
        if self.held.insert(machine) {
            warn!(%machine, error = &error as &dyn std::error::Error, "nothing is collected: a machine is damaged, so what it needs cannot be told");
            self.report.held.push((machine, error));
        }
        Ok(())
    }
}
