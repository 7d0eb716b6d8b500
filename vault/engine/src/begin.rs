//! Starting a backup: what it builds on is made safe before anything refers to it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::TryStreamExt as _;
use tracing::{info, warn};
use uuid::Uuid;

use holdfast_vault_format::MAX_DISK_BYTES;
use holdfast_vault_format::container::Kind;
use holdfast_vault_format::record::Open;

use crate::backup::{Backup, BeginBackup, Opened};
use crate::event::PointNames;
use crate::object::{self, Created};
use crate::segment_id::{AnyGeneration, SegmentId};
use crate::standing::{PointState, Standing};
use crate::{Outcome, Point, Vault, VaultError, name};

/// How often a begin that another one overtook starts over.
const TRIES: u32 = 32;
/// Pages of a base that are read together, where it is looked at closely: a disk of 1 TiB has some two thousand.
const PAGES_AT_ONCE: usize = 16;

/// How much of a point's metadata is read when it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The roots of its deltas.
    Roots,
    /// Their pages as well.
    Pages,
}

/// How a backup began.
#[derive(Debug)]
pub enum Begun {
    Open(Backup),
    /// This attempt committed a point before.
    AlreadyCommitted(Point),
}

impl Vault {
    /// Begins a backup under a fresh sequence number. Every earlier backup of the machine that has no outcome is concluded
    /// first; what the ones since the newest point stored is taken over.
    ///
    /// The caller has made sure that this is the machine's current attempt.
    pub async fn begin(&self, request: BeginBackup) -> Result<Begun, VaultError> {
        if let Some(disk) = request.disks.iter().find(|disk| disk.size_bytes > MAX_DISK_BYTES) {
            return Err(VaultError::BadInput {
                detail: format!("disk {:?} is larger than disks can be", disk.name),
            });
        }
        for _ in 0..TRIES {
            if let Some(begun) = self.try_begin(&request).await? {
                return Ok(begun);
            }
            tokio::time::sleep(Duration::from_millis(5 + rand::random::<u64>() % 45)).await;
        }
        Err(VaultError::Contended { machine: request.machine })
    }

    /// `None` if another begin came in between.
    async fn try_begin(&self, request: &BeginBackup) -> Result<Option<Begun>, VaultError> {
        let machine = request.machine;
        self.check_present().await?;
        let (lost, earlier): (Vec<u64>, Vec<u64>) =
            self.undecided(machine).await?.into_iter().partition(|seq| *seq <= request.at_least_seq);
        for seq in earlier {
            self.conclude(machine, seq, "another attempt began").await?;
        }
        let names = self.point_names(machine).await?;
        let decided: Vec<u64> = names.seqs.keys().copied().collect();
        let opened = self.open_seqs(machine).await?;
        let newest = self.newest_point(machine, &names).await?;
        if let Some(point) = &newest
            && (point.step_id, point.attempt) == (request.step_id, request.attempt)
        {
            return Ok(Some(Begun::AlreadyCommitted(point.clone())));
        }
        let since = newest.as_ref().map_or(0, |point| point.seq);
        let adopted: Vec<u64> = opened.iter().copied().filter(|seq| *seq > since).collect();
        let previous = newest.as_ref().map(Point::reference);
        // The attempt before may have failed by a page that does not read: look closer than usual.
        let depth = if adopted.is_empty() { Depth::Roots } else { Depth::Pages };
        let base = match newest {
            Some(point) if request.damaged.contains(&point.seq) => {
                warn!(%machine, seq = point.seq, "the newest point is known to be damaged: a full backup heals");
                None
            }
            Some(point) => self.usable_base(point, depth).await?,
            None => None,
        };
        let epoch = self.condemned_number().await?;
        // Also of a point that is lost: what was decided about it must not be about another one.
        let largest =
            opened.iter().copied().chain(names.known()).max().unwrap_or(0).max(request.at_least_seq);
        let created = self.create_open(request, largest, base.as_ref(), &adopted, epoch).await?;
        let Some((seq, open_bytes)) = created else { return Ok(None) };
        if self.is_overtaken(machine, seq, &decided, &lost).await? {
            return Ok(None);
        }
        // From here on a collection keeps the base, unless it was purged before.
        if let Some(point) = &base
            && is_purged(machine, point.seq, self.standing(machine, point.seq).await)?
        {
            return Ok(None);
        }
        // What is condemned later waits for this backup.
        let (adopted, condemned) = match self.condemned().await {
            Ok(condemned) => (adopted, Some(condemned)),
            Err(error) if error.is_damage() => {
                warn!(%machine, error = &error as &dyn std::error::Error, "what is condemned cannot be told: nothing that is stored is used");
                (Vec::new(), None)
            }
            Err(error) => return Err(error),
        };
        info!(%machine, seq, base = ?base.as_ref().map(|point| point.seq), ?adopted, "backup begun");
        let opened = Opened { seq, open_bytes, base, is_base_read: depth == Depth::Pages, previous };
        let backup = Backup::start(self.clone(), request.clone(), opened, &adopted, condemned).await?;
        Ok(Some(Begun::Open(backup)))
    }

    /// Whether another begin or commit came between the look at the vault and the creation of `open`. Of two that began
    /// together, the one that looks last sees both: the one with the smaller number gives up, so that one is left.
    async fn is_overtaken(
        &self,
        machine: Uuid,
        seq: u64,
        known: &[u64],
        lost: &[u64],
    ) -> Result<bool, VaultError> {
        for open in self.undecided(machine).await?.into_iter().filter(|open| !lost.contains(open)) {
            if open > seq {
                return Ok(true);
            }
            if open < seq {
                self.conclude(machine, open, "another attempt began").await?;
            }
        }
        let decided = self.point_seqs(machine).await?;
        for decided in decided.into_iter().filter(|decided| !known.contains(decided)) {
            match self.outcome(machine, decided).await {
                Ok(Some(Outcome::Point(_))) => return Ok(true),
                // Concluded meanwhile, by a begin that is ahead of this one.
                Ok(Some(Outcome::Aborted { .. })) if decided == seq => return Ok(true),
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn newest_point(&self, machine: Uuid, names: &PointNames) -> Result<Option<Point>, VaultError> {
        for seq in names.seqs.keys().rev() {
            let standing = || self.standing_by(machine, *seq, names.events.get(seq));
            match self.outcome(machine, *seq).await {
                Ok(Some(Outcome::Point(point))) if !is_purged(machine, *seq, standing().await)? => {
                    return Ok(Some(point));
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    warn!(%machine, seq, error = &error as &dyn std::error::Error, "a point is damaged: not built upon");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A base is built upon only if all that it refers to is there; otherwise the next backup is a full one, which heals.
    async fn usable_base(&self, point: Point, depth: Depth) -> Result<Option<Point>, VaultError> {
        match self.check_structure(&point, depth).await {
            Ok(()) => Ok(Some(point)),
            Err(error) if error.is_damage() => {
                warn!(machine = %point.machine, seq = point.seq, error = &error as &dyn std::error::Error,
                    "the newest point is damaged: the next one is a full backup");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that every delta of a point reads and that every segment which they name exists.
    pub(crate) async fn check_structure(&self, point: &Point, depth: Depth) -> Result<(), VaultError> {
        let mut present = self.segments_in(point.machine, None).await?;
        // Of lenders, the backups whose segments were listed.
        let mut listed = HashSet::new();
        for disk in &point.disks {
            for delta in &disk.stack {
                let root = self.delta_root(point.machine, delta).await?;
                for named in &root.segments {
                    if let Some(lender) = named.lender
                        && listed.insert((lender, named.seq))
                    {
                        present.extend(self.segments_in(lender, Some(named.seq)).await?);
                    }
                    let id = SegmentId::named(point.machine, named);
                    // It may have been replaced by a later generation.
                    if present.get(&id.any_generation()).is_none_or(|newest| *newest < id.generation) {
                        return Err(VaultError::Missing { object: id.name() });
                    }
                }
                if depth == Depth::Pages {
                    let pages = root.extent_pages.iter().chain(&root.hash_pages).map(Ok);
                    let read =
                        |page| async move { self.delta_page(point.machine, delta.seq, page).await.map(drop) };
                    futures::stream::iter(pages).try_for_each_concurrent(PAGES_AT_ONCE, read).await?;
                }
            }
        }
        Ok(())
    }

    /// The segments of a machine, or of one of its backups, with their newest generations.
    async fn segments_in(
        &self,
        machine: Uuid,
        seq: Option<u64>,
    ) -> Result<HashMap<AnyGeneration, u32>, VaultError> {
        let prefix = match seq {
            None => format!("seg/{machine}"),
            Some(seq) => format!("seg/{machine}/{seq:020}"),
        };
        let mut newest = HashMap::new();
        for path in object::list(self.store(), &prefix).await? {
            if let (Some(seq), Some((number, generation))) =
                (name::seq_folder_of(&path), name::segment_of(&path))
            {
                let known = newest.entry((machine, seq, number)).or_insert(generation);
                *known = generation.max(*known);
            }
        }
        Ok(newest)
    }

    /// Answers the sequence number and the stored length of its `open` object; `None` if somebody else took the number.
    async fn create_open(
        &self,
        request: &BeginBackup,
        largest: u64,
        base: Option<&Point>,
        adopted: &[u64],
        epoch: u64,
    ) -> Result<Option<(u64, u64)>, VaultError> {
        let seq = largest
            .checked_add(1)
            .ok_or_else(|| VaultError::BadInput { detail: "no sequence number is left".to_owned() })?;
        let open = Open {
            machine: request.machine,
            seq,
            snapshot: request.snapshot_id,
            step: request.step_id,
            attempt: request.attempt,
            base: base.map(Point::reference),
            adopted: adopted.to_vec(),
            epoch,
        };
        let object = name::open(request.machine, seq);
        let (created, open_bytes) = self.create_sized_record(&object, Kind::Open, &open.encode()).await?;
        Ok((created == Created::Now).then_some((seq, open_bytes)))
    }
}

/// Whether a point is no more. If that cannot be told, nothing is built upon it.
fn is_purged(machine: Uuid, seq: u64, standing: Result<Standing, VaultError>) -> Result<bool, VaultError> {
    match standing {
        Ok(standing) => Ok(standing.state == PointState::Purged),
        Err(error) if error.is_damage() => {
            warn!(%machine, seq, error = &error as &dyn std::error::Error, "what was decided about a point cannot be read: not built upon");
            Ok(true)
        }
        Err(error) => Err(error),
    }
}
