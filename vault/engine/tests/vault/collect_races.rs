//! Backups, deletions, locks and collections, interleaved step by step in random order: every point that is listed, or can be
//! undeleted, restores after each step of a collection that changes what is stored, and what is locked is listed. The machines are clones at times, and in every other schedule they lend each other what they
//! stored; whatever is lent is not compacted. In every third the storage lets names be taken twice. In memory: there is no disk in what is proved here.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, Backup, BeginBackup, Begun, ClockTrust, CollectOptions, CollectionRun, Compaction, KeyFile,
    LockMode, Outcome, Point, PointStatus, Prepared, Refusal, Samples, Storage, Vault, VaultError,
};
use object_store::memory::InMemory;
use uuid::Uuid;

use super::arbiter::{Names, careless};
use super::collect::AT_ONCE;
use super::support::image::Random;
use super::support::{Image, is_merged, request, restore, send_changes};
use crate::support::garbage::collect_garbage;

const BLOCK: usize = 4096;
/// Two gateways and two collectors at a time.
const ACTORS: usize = 2;

/// In a storage that lets every name be taken again.
async fn arbitrated(key: &KeyFile) -> Vault {
    let objects = careless(Arc::new(InMemory::new()));
    Vault::create_arbitrated(Storage::over(Arc::clone(&objects)), key).await.unwrap();
    let storage = Storage::over(objects).with_arbiter(Arc::new(Names::default()));
    Vault::open(storage, key).await.unwrap()
}

/// A gateway at work on a backup of a machine.
enum Gateway {
    Idle,
    Begun(Backup, Image),
    Sent(Backup, Image),
    /// With the number of its base.
    Prepared(Prepared, Image, Option<u64>),
}

struct World {
    vault: Vault,
    is_lending: bool,
    machines: [Uuid; 2],
    disks: [Image; 2],
    /// Points that need segments of the other machine.
    borrowed: usize,
    /// Points whose deltas took the place of older ones.
    merged: usize,
    /// Segments that were replaced.
    compacted: u64,
    gateways: [Gateway; ACTORS],
    collectors: [Option<(CollectionRun, u8)>; ACTORS],
    /// What must restore, and what it must be.
    truth: BTreeMap<(Uuid, u64), (Point, Image)>,
    /// What is locked, and until when.
    locked: BTreeMap<(Uuid, u64), DateTime<Utc>>,
    /// Deletions that were refused for a lock.
    refused: usize,
    now: DateTime<Utc>,
    random: Random,
}

impl World {
    async fn new(key: &KeyFile, seed: u64) -> Self {
        let vault = match (seed / 1000).is_multiple_of(3) {
            true => arbitrated(key).await,
            false => Vault::create(Storage::over(Arc::new(InMemory::new())), key).await.unwrap(),
        };
        let is_lending = (seed / 1000).is_multiple_of(2);
        let vault = match is_lending {
            true => vault.deduplicating(Arc::new(Samples::within(0))),
            false => vault,
        };
        Self {
            vault,
            is_lending,
            machines: [Uuid::from_u128(1), Uuid::from_u128(2)],
            disks: [Image::noise(seed, 24 * BLOCK), Image::noise(seed + 1, 24 * BLOCK)],
            borrowed: 0,
            merged: 0,
            compacted: 0,
            gateways: std::array::from_fn(|_| Gateway::Idle),
            collectors: std::array::from_fn(|_| None),
            truth: BTreeMap::new(),
            locked: BTreeMap::new(),
            refused: 0,
            now: Utc::now(),
            random: Random(seed),
        }
    }

    fn options(&self) -> CollectOptions {
        CollectOptions {
            clock: ClockTrust::Trusted,
            keep_leftovers: std::time::Duration::from_secs(self.disks[0].0[0].into()),
            compaction: Compaction::All,
            least_gain: 1,
            ..CollectOptions::new(self.now)
        }
    }

    async fn step(&mut self) {
        self.now += TimeDelta::minutes(1);
        let actor = self.random.below(ACTORS);
        match self.random.below(22) {
            0..=7 => self.back_up(actor).await,
            8 => self.reap().await,
            9..=11 => self.decide(AT_ONCE).await,
            12 => self.decide(Action::Undelete).await,
            13 if self.random.below(3) == 0 => self.decide(Action::Unlock).await,
            13 => {
                let until = self.now + TimeDelta::days(1 + i64::try_from(self.random.below(60)).unwrap());
                let mode = [LockMode::Governance, LockMode::Compliance][self.random.below(2)];
                self.decide(Action::Lock { mode, until: until.timestamp_micros() }).await;
            }
            _ => self.collect(actor).await,
        }
    }

    async fn back_up(&mut self, actor: usize) {
        let which = self.random.below(2);
        let changed = self.random.next();
        let gateway = std::mem::replace(&mut self.gateways[actor], Gateway::Idle);
        self.gateways[actor] = match gateway {
            Gateway::Idle => {
                match changed % 6 {
                    0 | 1 if self.is_lending => self.disks[which] = self.disks[1 - which].clone(),
                    // As after a restore.
                    2 if !self.truth.is_empty() => {
                        let old = self.random.below(self.truth.len());
                        self.disks[which] = self.truth.values().nth(old).unwrap().1.clone();
                    }
                    _ => self.disks[which].change(changed, 1 + usize::try_from(changed % 19).unwrap()),
                }
                let image = self.disks[which].clone();
                let machine = self.machines[which];
                // Where machines lend, many are full backups, as after damage: what they send is likely to be known. Elsewhere what is
                // old wears off.
                let full = if self.is_lending { 2 } else { 8 };
                let damaged = if self.random.below(full) == 0 {
                    self.vault.point_seqs(machine).await.unwrap()
                } else {
                    Vec::new()
                };
                let request = BeginBackup { damaged, ..request(machine, &[("sda", &image)]) };
                match self.vault.begin(request).await.unwrap() {
                    Begun::Open(backup) => Gateway::Begun(backup, image),
                    Begun::AlreadyCommitted(point) => panic!("{point:?}"),
                }
            }
            Gateway::Begun(backup, image) => {
                let sent = match send_changes(&backup, "sda", &image).await {
                    Ok(_) => backup.flush().await,
                    Err(error) => Err(error),
                };
                match sent {
                    Ok(()) => Gateway::Sent(backup, image),
                    Err(error) => self.given_up(&backup, error).await,
                }
            }
            Gateway::Sent(backup, image) => match backup.prepare(&[]).await {
                Ok(prepared) => Gateway::Prepared(prepared, image, backup.base().map(|base| base.seq)),
                Err(error) => self.given_up(&backup, error).await,
            },
            Gateway::Prepared(prepared, image, base) => {
                match prepared.commit().await {
                    Ok(point) => {
                        let base = base.and_then(|base| self.truth.get(&(point.machine, base)));
                        self.merged += usize::from(base.is_some_and(|(base, _)| is_merged(&point, base)));
                        self.borrowed +=
                            usize::from(point.disks[0].stored_bytes < point.disks[0].sent_bytes / 2);
                        self.truth.insert((point.machine, point.seq), (point, image));
                    }
                    Err(VaultError::Aborted { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
                Gateway::Idle
            }
        };
    }

    /// Only a backup that was concluded meanwhile may find that what it builds on is gone.
    async fn given_up(&self, backup: &Backup, error: VaultError) -> Gateway {
        for machine in self.machines {
            if format!("{backup:?}").contains(&machine.to_string()) {
                let outcome = self.vault.outcome(machine, backup.seq()).await.unwrap();
                assert!(matches!(outcome, Some(Outcome::Aborted { .. })), "{error:?}");
            }
        }
        Gateway::Idle
    }

    /// Some backup without an outcome is given up; its gateway may not know.
    async fn reap(&mut self) {
        let machine = self.machines[self.random.below(2)];
        let open = self.vault.unconcluded(machine).await.unwrap();
        if !open.is_empty() {
            let seq = open[self.random.below(open.len())].seq;
            self.vault.conclude(machine, seq, "given up").await.unwrap();
        }
    }

    async fn decide(&mut self, action: Action) {
        let points: Vec<(Uuid, u64)> = self.truth.keys().copied().collect();
        if points.is_empty() {
            return;
        }
        let point = points[self.random.below(points.len())];
        let (machine, seq) = point;
        let is_locked = self.locked.get(&point).is_some_and(|until| *until > self.now);
        match (self.vault.decide_point(machine, seq, action, "random").await, action) {
            (Ok(_), Action::Lock { until, .. }) => {
                self.locked.insert(point, DateTime::from_timestamp_micros(until).unwrap());
            }
            (Ok(_), Action::Unlock) => drop(self.locked.remove(&point)),
            (Ok(_), Action::Delete { .. }) => assert!(!is_locked, "what is locked was deleted"),
            (Err(VaultError::Refused { source: Refusal::Locked { .. }, .. }), _) => self.refused += 1,
            (Ok(_) | Err(VaultError::Refused { .. }), _) => {}
            (Err(error), _) => panic!("{error:?}"),
        }
    }

    async fn collect(&mut self, actor: usize) {
        self.collectors[actor] = match self.collectors[actor].take() {
            None => Some((self.vault.begin_collection(self.options()).await.unwrap(), 1)),
            Some((mut run, 1)) => {
                run.look(|_| {}).await.unwrap();
                Some((run, 2))
            }
            Some((mut run, 2)) => {
                run.compact(|_| {}).await.unwrap();
                self.check().await;
                Some((run, 3))
            }
            Some((mut run, 3)) => {
                run.condemn().await.unwrap();
                Some((run, 4))
            }
            Some((mut run, 4)) => {
                run.look_again().await.unwrap();
                Some((run, 5))
            }
            // Some are killed here.
            Some((run, _)) => {
                if self.random.below(4) > 0 {
                    let report = run.sweep().await.unwrap();
                    assert!(report.held.is_empty(), "{report:?}");
                    self.compacted += report.compacted_segments;
                    self.check().await;
                }
                None
            }
        };
    }

    /// What is listed is what is known, and restores; what is locked is listed.
    async fn check(&self) {
        for machine in self.machines {
            let mut there = Vec::new();
            for status in self.vault.points(machine).await.unwrap() {
                let is_listed = matches!(status, PointStatus::Ok(_));
                match status {
                    PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => {
                        let (known, image) = &self.truth[&(machine, point.seq)];
                        assert_eq!(&point, known);
                        let lock = self.locked.get(&(machine, point.seq));
                        assert!(is_listed || lock.is_none_or(|until| *until <= self.now), "{point:?}");
                        let restored = restore(&self.vault, &point, "sda").await.unwrap();
                        assert!(restored == *image, "point {} is not what it was", point.seq);
                        there.push(point.seq);
                    }
                    PointStatus::Damaged { seq, error } => panic!("point {seq}: {error:?}"),
                }
            }
            let gone: Vec<u64> = self
                .truth
                .range((machine, 0)..=(machine, u64::MAX))
                .map(|((_, seq), _)| *seq)
                .filter(|seq| !there.contains(seq))
                .collect();
            for seq in gone {
                let standing = self.vault.standing(machine, seq).await.unwrap();
                assert_eq!(standing.state, holdfast_vault_engine::PointState::Purged, "point {seq} is lost");
                let lock = self.locked.get(&(machine, seq));
                assert!(lock.is_none_or(|until| *until <= self.now), "point {seq} was locked");
            }
        }
    }
}

/// `HOLDFAST_RACES` schedules of 100 steps each (100).
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_in_whatever_order_what_is_listed_restores() {
    let schedules: u64 = std::env::var("HOLDFAST_RACES").map_or(100, |count| count.parse().unwrap());
    let first: u64 = std::env::var("HOLDFAST_RACES_SEED").map_or(1, |seed| seed.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&dir.path().join("key")).unwrap();
    let (mut purged, mut left, mut borrowed, mut merged, mut compacted, mut refused) = (0, 0, 0, 0, 0, 0);
    for seed in first..first + schedules {
        println!("seed {seed}");
        let mut world = World::new(&key, seed * 1000).await;
        for _ in 0..100 {
            world.step().await;
        }
        world.check().await;
        // Everybody ends: then nothing is left over that nothing needs.
        for actor in 0..ACTORS {
            world.gateways[actor] = Gateway::Idle;
            world.collectors[actor] = None;
        }
        for machine in world.machines {
            for open in world.vault.unconcluded(machine).await.unwrap() {
                world.vault.conclude(machine, open.seq, "the end").await.unwrap();
            }
        }
        world.now += TimeDelta::days(30);
        for _ in 0..2 {
            let options = world.options();
            world.compacted +=
                collect_garbage(&world.vault, options, |_| {}).await.unwrap().compacted_segments;
        }
        world.check().await;
        let options = world.options();
        let plan = world.vault.plan_collection(options, |_| {}).await.unwrap();
        assert_eq!(plan.condemned_segments, 0, "something is never collected");
        assert_eq!(plan.compacted_segments, 0, "something is compacted without end");
        let mut there = 0;
        for machine in world.machines {
            there += world.vault.points(machine).await.unwrap().len();
        }
        left += there;
        borrowed += world.borrowed;
        merged += world.merged;
        compacted += world.compacted;
        refused += world.refused;
        purged += world.truth.len() - there;
    }
    let proved = format!(
        "{purged} points purged, {left} left, {borrowed} made of what was stored before, {merged} with merged deltas, {compacted} segments \
         compacted, {refused} deletions refused"
    );
    let all = [purged, left, borrowed, merged, refused].iter().all(|count| *count > 0) && compacted > 0;
    assert!(all, "nothing was proved: {proved}");
    println!("{proved}");
}
