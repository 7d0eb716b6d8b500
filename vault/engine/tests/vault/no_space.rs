//! A disk that is full at any write of whatever changes a vault: that is said, nothing is lost, and with space again it is done.

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, ClockTrust, CollectOptions, Compaction, KeyFile, Keys, LockMode, Outcome, Point, PointState,
    PointStatus, Storage, Unlock, Vault, VaultError,
};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::faulty::{Fault, Faulty};
use super::support::{Image, TestVault, back_up, begin, request, restore_disk, send_changes};
use crate::support::garbage::collect_garbage;

const BLOCKS: usize = 64 * 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Collect,
    Delete,
    Lock,
    Conclude,
    AddKey,
    RemoveKey,
}

const CHANGES: [(Change, usize); 6] = [
    // Epoch, two purges, a segment of which a part is left, what is condemned, that it is gone.
    (Change::Collect, 6),
    (Change::Delete, 1),
    (Change::Lock, 1),
    (Change::Conclude, 1),
    (Change::AddKey, 1),
    (Change::RemoveKey, 1),
];

/// Four points, of which two are deleted, a backup under way, and a second key.
struct Bed {
    test: TestVault,
    machine: Uuid,
    points: Vec<(Point, Image)>,
    open: u64,
    second: KeyFile,
}

impl Bed {
    async fn new() -> Self {
        let test = TestVault::new().await;
        let (machine, second) = (Uuid::new_v4(), KeyFile::new());
        let mut image = Image::noise(1, BLOCKS);
        let mut points = Vec::new();
        for round in 0..4 {
            let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
            points.push((point, image.clone()));
            image.change(2 + round, 40);
        }
        for (point, _) in [&points[0], &points[1]] {
            test.vault.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap();
        }
        let open = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
        send_changes(&open, "sda", &image).await.unwrap();
        open.flush().await.unwrap();
        let seq = open.seq();
        let keys = Keys::unlock(Storage::directory(&test.path).unwrap(), Unlock::Key(&test.key));
        keys.await.unwrap().add_identity("second", &second.public()).await.unwrap();
        Self { test, machine, points, open: seq, second }
    }

    async fn make(&self, change: Change, vault: &Vault, storage: &Storage) -> Result<(), VaultError> {
        let newest = self.points[3].0.seq;
        let keys = || Keys::unlock(storage.clone(), Unlock::Key(&self.test.key));
        match change {
            Change::Collect => {
                let options = CollectOptions {
                    clock: ClockTrust::Trusted,
                    compaction: Compaction::All,
                    least_gain: 1,
                    ..CollectOptions::new(Utc::now())
                };
                collect_garbage(vault, options, |_| {}).await.map(|report| {
                    assert!(report.held.is_empty(), "{report:?}");
                })
            }
            Change::Delete => vault.decide_point(self.machine, newest, AT_ONCE, "eva").await.map(drop),
            Change::Lock => {
                let until = (Utc::now() + TimeDelta::days(1)).timestamp_micros();
                let lock = Action::Lock { mode: LockMode::Governance, until };
                vault.decide_point(self.machine, newest, lock, "eva").await.map(drop)
            }
            Change::Conclude => vault.conclude(self.machine, self.open, "given up").await.map(drop),
            Change::AddKey => {
                keys().await.unwrap().add_identity("third", &KeyFile::new().public()).await.map(drop)
            }
            Change::RemoveKey => {
                let all = Keys::recipients(storage).await.unwrap();
                // A try that failed may have removed it.
                let Some(second) = all.iter().find(|recipient| recipient.label == "second") else {
                    return Ok(());
                };
                keys().await.unwrap().remove(second.id).await.map(drop)
            }
        }
    }

    /// Whatever came of it: what is listed restores, and nobody is shut out.
    async fn check(&self) {
        let vault = self.test.reopen().await.unwrap();
        let mut listed = 0;
        for status in vault.points(self.machine).await.unwrap() {
            let (PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _)) = status else {
                panic!("{status:?}")
            };
            let (_, image) = self.points.iter().find(|(known, _)| known.id == point.id).unwrap();
            restore_disk(&vault, &point, "sda", image).await;
            listed += 1;
        }
        assert!(listed >= 2, "{listed}");
    }

    async fn check_done(&self, change: Change, vault: &Vault, storage: &Storage) {
        let standing = vault.standing(self.machine, self.points[3].0.seq).await.unwrap();
        let recipients = Keys::recipients(storage).await.unwrap();
        match change {
            Change::Collect => {
                // What a backup under way may need was waited for.
                vault.conclude(self.machine, self.open, "given up").await.unwrap();
                for _ in 0..2 {
                    self.make(change, vault, storage).await.unwrap();
                }
                let plan = vault.plan_collection(CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
                assert_eq!((plan.condemned_segments, plan.purged.len()), (0, 0), "{plan:?}");
                let names = self.test.objects();
                assert!(!names.iter().any(|name| name.ends_with(".set")), "{names:?}");
                let gone = format!("seg/{}/{:020}/00000000.0", self.machine, self.points[0].0.seq);
                assert!(!names.contains(&gone), "{names:?}");
            }
            Change::Delete => assert!(matches!(standing.state, PointState::SoftDeleted(_)), "{standing:?}"),
            Change::Lock => assert!(standing.lock.is_some(), "{standing:?}"),
            Change::Conclude => {
                let outcome = vault.outcome(self.machine, self.open).await.unwrap();
                assert!(matches!(outcome, Some(Outcome::Aborted { .. })), "{outcome:?}");
            }
            Change::AddKey => assert!(recipients.iter().any(|recipient| recipient.label == "third")),
            Change::RemoveKey => {
                let refused = Vault::open(storage.clone(), &self.second).await;
                assert!(matches!(refused, Err(VaultError::WrongKey { .. })), "{refused:?}");
            }
        }
    }
}

/// One write fails, or all from one on.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_refused_for_want_of_space_is_done_with_space() {
    for (change, least) in CHANGES {
        for bad in [1, usize::MAX] {
            let mut refused = 0;
            for good in 0.. {
                let bed = Bed::new().await;
                let full = Faulty::new(&bed.test.path, Fault::NoSpace, "", good, bad);
                let storage = Storage::directory(&bed.test.path).unwrap().through(|_| full.clone());
                let vault = Vault::open(storage.clone(), &bed.test.key).await.unwrap();
                let made = bed.make(change, &vault, &storage).await;
                let failed = full.failed();
                bed.check().await;
                full.heal();
                // A segment is replaced to make room: without any, the next collection does.
                let may_be_left_out = failed.iter().all(|name| name.starts_with("seg/"));
                match made {
                    Err(error) => {
                        assert!(!may_be_left_out && error.is_no_space(), "{change:?}: {failed:?}: {error:?}");
                        assert!(error.is_retryable() && !error.is_damage(), "{error:?}");
                        bed.make(change, &vault, &storage).await.unwrap();
                    }
                    Ok(()) => assert!(may_be_left_out, "{change:?}: {failed:?}"),
                }
                bed.check_done(change, &vault, &storage).await;
                bed.check().await;
                if failed.is_empty() {
                    break;
                }
                refused += 1;
            }
            assert!(refused >= least, "{change:?}: {refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_made_where_there_was_no_space_before() {
    let (dir, key) = (tempfile::tempdir().unwrap(), KeyFile::new());
    for good in 0..2 {
        let path = dir.path().join(good.to_string());
        std::fs::create_dir(&path).unwrap();
        let full = Faulty::new(&path, Fault::NoSpace, "", good, usize::MAX);
        let storage = Storage::directory(&path).unwrap().through(|_| full.clone());
        let error = Vault::create(storage.clone(), &key).await.unwrap_err();
        assert!(error.is_no_space(), "after {good}: {error:?}");
        assert!(!Vault::is_in(&storage).await.unwrap());
        full.heal();
        let vault = Vault::create(storage.clone(), &key).await.unwrap();
        let image = Image::noise(1, BLOCKS);
        let point = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
        restore_disk(&Vault::open(storage, &key).await.unwrap(), &point, "sda", &image).await;
    }
}
