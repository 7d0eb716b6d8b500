//! Processes that back up, decide, collect and restore at the same time on one vault: which one's next request reaches the storage is
//! random, some sleep for long between two requests, and some die. In every other schedule machines lend each other what they stored; listings
//! come in pages at times. A schedule is repeated by its seed, but for what the engine itself draws at random.

mod told;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, BeginBackup, Begun, ClockTrust, CollectOptions, Compaction, KeyFile, LockMode, Outcome,
    PointState, PointStatus, Refusal, Samples, Storage, Vault, VaultError,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::image::Random;
use super::support::paced::Paced;
use super::support::turns::Turns;
use super::support::{Image, is_merged, request, restore, send_changes};
use crate::support::garbage::collect_garbage;
use told::{AllCounts, Counts, Key, Told, Truth};

const BLOCK: usize = 4096;
const BLOCKS: usize = 24;
const MACHINES: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];
const PROCESSES: usize = 6;
/// Turns of one schedule.
const TURNS: usize = 2000;

/// What a backup comes to after all was sent, if nobody kills it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Committed,
    /// Nobody hears of it again.
    Lost,
    GivenUp,
}

struct Process {
    turns: Turns,
    vault: Vault,
    task: Option<JoinHandle<()>>,
    /// For so many turns.
    asleep: usize,
}

struct World {
    objects: Arc<dyn ObjectStore>,
    key: Arc<KeyFile>,
    samples: Option<Arc<Samples>>,
    disks: [Image; 2],
    processes: Vec<Process>,
    told: Told,
    /// Reads past all turns.
    observer: Vault,
    random: Random,
}

impl World {
    async fn new(key: &Arc<KeyFile>, counts: AllCounts, seed: u64) -> Self {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let observer = Vault::create(Storage::over(Arc::clone(&objects)), key).await.unwrap();
        let mut world = Self {
            objects,
            key: Arc::clone(key),
            samples: seed.is_multiple_of(2).then(|| Arc::new(Samples::within(0))),
            disks: [0, 1].map(|disk| Image::noise(2 * seed + disk, BLOCKS * BLOCK)),
            processes: Vec::new(),
            told: Told::counted(counts),
            observer,
            random: Random(seed),
        };
        for _ in 0..PROCESSES {
            let process = world.process().await;
            world.processes.push(process);
        }
        world
    }

    async fn process(&mut self) -> Process {
        let turns = Turns::new(self.random.next());
        let objects = Paced::over(Arc::clone(&self.objects), Arc::new(turns.clone()));
        let vault = Vault::open(Storage::over(objects), &self.key).await.unwrap();
        let vault = match &self.samples {
            Some(samples) => vault.deduplicating(Arc::clone(samples)),
            None => vault,
        };
        Process { turns, vault, task: None, asleep: 0 }
    }

    async fn turn(&mut self) {
        let awake = |process: &Process| process.asleep == 0;
        let mut choice: Vec<usize> = (0..PROCESSES).filter(|at| awake(&self.processes[*at])).collect();
        if choice.is_empty() {
            choice.extend(0..PROCESSES);
        }
        for process in &mut self.processes {
            process.asleep = process.asleep.saturating_sub(1);
        }
        let at = choice[self.random.below(choice.len())];
        if self.processes[at].task.is_none() {
            self.begin(at).await;
        } else if self.random.below(400) == 0 {
            self.kill(at).await;
            return;
        }
        let process = &mut self.processes[at];
        if process.turns.turn().await {
            process.asleep = self.random.below(400);
        }
        if !process.turns.is_running()
            && let Some(task) = process.task.take()
        {
            task.await.unwrap();
            if self.random.below(4) == 0 {
                self.check(&self.observer).await;
            }
        }
    }

    /// Before a request, with one of which nobody hears any more; or only what it does is given up, as when a connection breaks.
    async fn kill(&mut self, at: usize) {
        self.told.counts().killed += 1;
        let how = self.random.below(3);
        let process = &mut self.processes[at];
        match how {
            0 => process.turns.die(),
            1 => process.turns.die_with_next().await,
            _ => {}
        }
        let task = process.task.take().unwrap();
        task.abort();
        if let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        if how < 2 {
            self.processes[at] = self.process().await;
        }
    }

    /// Has a process begin something.
    async fn begin(&mut self, at: usize) {
        let Process { turns, vault, .. } = &self.processes[at];
        let (turns, vault, told) = (turns.clone(), vault.clone(), self.told.clone());
        let points = self.points();
        let task = match self.random.below(20) {
            0..=5 => {
                let (machine, image) = self.change();
                let is_full = self.random.below(if self.samples.is_some() { 2 } else { 8 }) == 0;
                let ends = match self.random.below(6) {
                    0 => Ends::Lost,
                    1 => Ends::GivenUp,
                    _ => Ends::Committed,
                };
                let backup = back_up(vault, told, machine, image, is_full, ends);
                turns.run(backup).await
            }
            6 => {
                let machine = MACHINES[self.random.below(2)];
                turns.run(reap(vault, machine, self.random.next())).await
            }
            7..=12 => {
                let keep_leftovers = Duration::from_secs([0, 7 * 24 * 3600][self.random.below(2)]);
                turns.run(collect(vault, told, CollectOptions { keep_leftovers, ..options() })).await
            }
            _ if points.is_empty() => return,
            kind => {
                let key = points[self.random.below(points.len())];
                let until = Utc::now() + TimeDelta::days(400);
                let lock = Action::Lock { mode: LockMode::Governance, until: until.timestamp_micros() };
                match kind {
                    13..=16 => turns.run(decide(vault, told, key, AT_ONCE)).await,
                    17 => turns.run(decide(vault, told, key, Action::Undelete)).await,
                    18 if key.1.is_multiple_of(2) && self.random.below(2) == 0 => {
                        turns.run(decide(vault, told, key, Action::Unlock)).await
                    }
                    18 => turns.run(decide(vault, told, key, lock)).await,
                    _ => turns.run(read(vault, told, key)).await,
                }
            }
        };
        self.processes[at].task = Some(task);
    }

    /// Points that somebody was told of.
    fn points(&self) -> Vec<Key> {
        let known = self.told.known();
        known.iter().filter(|(_, truth)| truth.point.is_some()).map(|(key, _)| *key).collect()
    }

    /// What there is to back up.
    fn change(&mut self) -> (Uuid, Image) {
        let which = self.random.below(2);
        let changed = self.random.next();
        match changed % 6 {
            0 | 1 if self.samples.is_some() => self.disks[which] = self.disks[1 - which].clone(),
            // As after a restore.
            2 => {
                let known = self.told.known();
                if let Some(old) = known.values().nth(self.random.below(1 + known.len())) {
                    self.disks[which] = old.image.clone();
                }
            }
            _ => self.disks[which].change(changed, 1 + usize::try_from(changed % 19).unwrap()),
        }
        (MACHINES[which], self.disks[which].clone())
    }

    /// What is listed, or can be undeleted, restores; what was told is true.
    async fn check(&self, vault: &Vault) {
        let mut there = BTreeMap::new();
        for machine in MACHINES {
            for status in vault.points(machine).await.unwrap() {
                let (point, is_listed) = match status {
                    PointStatus::Ok(point) => (point, true),
                    PointStatus::SoftDeleted(point, _) => (point, false),
                    PointStatus::Damaged { seq, error } => panic!("point {seq}: {error:?}"),
                };
                let image = self.told.with((machine, point.seq), |truth| truth.image.clone());
                let restored = restore(vault, &point, "sda").await.unwrap();
                assert!(restored == image, "point {} is not what it was", point.seq);
                there.insert((machine, point.seq), (point, is_listed));
            }
        }
        for (key, truth) in &*self.told.known() {
            let Some(told) = &truth.point else { continue };
            match there.get(key) {
                Some((point, _)) if point != told => panic!("{told:?} became {point:?}"),
                Some((_, true)) => {}
                _ => assert!(truth.may_be_deleted(), "{key:?} is no more"),
            }
        }
        for key in self.points().into_iter().filter(|key| !there.contains_key(key)) {
            assert_eq!(vault.standing(key.0, key.1).await.unwrap().state, PointState::Purged, "{key:?}");
        }
    }

    /// All die; a new process finishes what they left.
    async fn end(mut self) {
        for process in &mut self.processes {
            process.turns.die();
            if let Some(task) = process.task.take() {
                task.abort();
            }
        }
        let vault = Vault::open(Storage::over(Arc::clone(&self.objects)), &self.key).await.unwrap();
        self.check(&vault).await;
        for machine in MACHINES {
            for open in vault.unconcluded(machine).await.unwrap() {
                vault.conclude(machine, open.seq, "the end").await.unwrap();
            }
        }
        let last = || CollectOptions { keep_leftovers: Duration::ZERO, ..options() };
        for _ in 0..2 {
            let report = collect_garbage(&vault, last(), |_| {}).await.unwrap();
            assert!(report.held.is_empty() && report.waiting_for.is_empty(), "{report:?}");
        }
        self.check(&vault).await;
        let plan = vault.plan_collection(last(), |_| {}).await.unwrap();
        assert_eq!(plan.condemned_segments, 0, "something is never collected");
        assert_eq!(plan.compacted_segments, 0, "something is compacted without end");
        let mut left = 0;
        for machine in MACHINES {
            left += vault.points(machine).await.unwrap().len();
        }
        let told = self.points().len();
        let mut counts = self.told.counts();
        counts.purged += told.saturating_sub(left);
        counts.left += left;
    }
}

fn options() -> CollectOptions {
    CollectOptions {
        clock: ClockTrust::Trusted,
        compaction: Compaction::All,
        least_gain: 1,
        ..CollectOptions::new(Utc::now() + TimeDelta::hours(1))
    }
}

async fn back_up(vault: Vault, told: Told, machine: Uuid, image: Image, is_full: bool, ends: Ends) {
    let damaged = if is_full { vault.point_seqs(machine).await.unwrap() } else { Vec::new() };
    let request = BeginBackup { damaged, ..request(machine, &[("sda", &image)]) };
    let backup = match vault.begin(request).await {
        Ok(Begun::Open(backup)) => backup,
        Err(VaultError::Contended { .. }) => return,
        other => panic!("{other:?}"),
    };
    let key = (machine, backup.seq());
    let base = backup.base().map(|base| (machine, base.seq));
    let truth = Truth {
        image: image.clone(),
        point: None,
        deletions_begun: 0,
        deletions_ended: 0,
        kept_after: None,
        is_locked: false,
        is_unlocked: false,
    };
    assert!(told.known().insert(key, truth).is_none(), "{key:?} was given out twice");
    let finish = async {
        send_changes(&backup, "sda", &image).await?;
        backup.flush().await?;
        if ends == Ends::GivenUp {
            vault.conclude(machine, backup.seq(), "its agent is lost").await?;
        }
        if ends != Ends::Committed {
            return Ok(None);
        }
        backup.prepare(&[]).await?.commit().await.map(Some)
    };
    match finish.await {
        Ok(None) => {}
        Ok(Some(point)) => {
            let is_borrowed = point.disks[0].stored_bytes < point.disks[0].sent_bytes / 2;
            let base = base.and_then(|base| told.known().get(&base)?.point.clone());
            told.counts().merged += usize::from(base.is_some_and(|base| is_merged(&point, &base)));
            told.counts().borrowed += usize::from(is_borrowed);
            told.with(key, |truth| truth.point = Some(point));
        }
        Err(VaultError::Aborted { .. }) => {}
        // Only one that was concluded meanwhile may find that something is gone.
        Err(error) => {
            let outcome = vault.outcome(machine, backup.seq()).await.unwrap();
            assert!(matches!(outcome, Some(Outcome::Aborted { .. })), "{error:?}");
        }
    }
}

/// Some backup without an outcome is given up; its gateway may not know.
async fn reap(vault: Vault, machine: Uuid, random: u64) {
    let open = vault.unconcluded(machine).await.unwrap();
    if !open.is_empty() {
        let seq = open[Random(random).below(open.len())].seq;
        vault.conclude(machine, seq, "given up").await.unwrap();
    }
}

/// A deletion that may come to be until this is dropped.
struct Deleting(Told, Key);

impl Drop for Deleting {
    fn drop(&mut self) {
        self.0.with(self.1, |truth| truth.deletions_ended += 1);
    }
}

async fn decide(vault: Vault, told: Told, key: Key, action: Action) {
    let is_deletion = matches!(action, Action::Delete { .. });
    let others = told.with(key, |truth| {
        let others = (truth.deletions_begun == truth.deletions_ended).then_some(truth.deletions_begun);
        truth.deletions_begun += usize::from(is_deletion);
        truth.is_unlocked |= action == Action::Unlock;
        others
    });
    let _deleting = is_deletion.then(|| Deleting(told.clone(), key));
    match (vault.decide_point(key.0, key.1, action, "random").await, action) {
        (Ok(standing), Action::Undelete) if standing.state == PointState::Listed => {
            told.with(key, |truth| truth.kept_after = others);
        }
        (Ok(_), Action::Lock { .. }) => told.with(key, |truth| truth.is_locked = true),
        (Err(VaultError::Refused { source: Refusal::Locked { .. }, .. }), _) => {
            told.counts().refused += 1;
        }
        (Ok(_) | Err(VaultError::Refused { .. }), _) => {}
        (Err(error), _) => panic!("{error:?}"),
    }
}

async fn collect(vault: Vault, told: Told, options: CollectOptions) {
    let report = collect_garbage(&vault, options, |_| {}).await.unwrap();
    // Another collection may have purged a point that it had seen, and removed what that needed: then it takes that for damage.
    let is_gone = |error: &VaultError| matches!(error, VaultError::Missing { .. });
    assert!(report.held.iter().all(|(_, error)| is_gone(error)), "{report:?}");
    told.counts().compacted += report.compacted_segments;
    told.counts().held += report.held.len();
}

/// What is read while others collect is what it was, or purged.
async fn read(vault: Vault, told: Told, key: Key) {
    let (point, image) = told.with(key, |truth| (truth.point.clone().unwrap(), truth.image.clone()));
    match restore(&vault, &point, "sda").await {
        Ok(restored) => {
            assert!(restored == image, "{key:?} is not what it was");
            told.counts().restored += 1;
        }
        Err(error) => {
            let standing = vault.standing(key.0, key.1).await.unwrap();
            assert_eq!(standing.state, PointState::Purged, "{key:?}: {error:?}");
        }
    }
}

async fn play(key: &Arc<KeyFile>, counts: AllCounts, seed: u64) {
    let mut world = World::new(key, counts, seed * 1000 + seed % 2).await;
    for _ in 0..TURNS {
        world.turn().await;
    }
    world.end().await;
}

/// Of the first schedule that fails nobody has to wait for the others.
struct Playing<'a> {
    seed: u64,
    left: &'a Mutex<Range<u64>>,
}

impl Drop for Playing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {} fails", self.seed);
            *self.left.lock().unwrap() = 0..0;
        }
    }
}

/// As many schedules as those of whole steps: `HOLDFAST_RACES` (100) from `HOLDFAST_RACES_SEED` on.
#[test]
fn whatever_comes_between_two_requests_what_was_told_is_true() {
    let schedules: u64 = std::env::var("HOLDFAST_RACES").map_or(100, |count| count.parse().unwrap());
    let first: u64 = std::env::var("HOLDFAST_RACES_SEED").map_or(1, |seed| seed.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let key = Arc::new(KeyFile::generate(&dir.path().join("key")).unwrap());
    let counts = AllCounts::default();
    let seeds = Mutex::new(first..first + schedules);
    // Time stands still in one runtime only: each thread has its own.
    let play_all = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let (runtime, next) = (runtime.unwrap(), || seeds.lock().unwrap().next());
        while let Some(seed) = next() {
            let playing = Playing { seed, left: &seeds };
            runtime.block_on(play(&key, Arc::clone(&counts), seed));
            drop(playing);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(play_all);
        }
    });
    let counts = counts.lock().unwrap();
    println!("{counts:?}");
    let Counts { purged, left, borrowed, merged, compacted, refused, restored, killed, .. } = *counts;
    let counts = [purged, left, borrowed, merged, refused, restored, killed];
    assert!(counts.iter().all(|count| *count > 0) && compacted > 0, "nothing was proved: {counts:?}");
}
