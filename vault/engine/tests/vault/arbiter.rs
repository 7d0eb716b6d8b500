//! A storage in which names can be taken twice, and somebody who says who takes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use holdfast_vault_engine::{
    Arbiter, ArbiterError, Backup, Claim, ClockTrust, CollectOptions, Compaction, KeyFile, Outcome,
    PointState, Storage, Vault, VaultError,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::faulty::{Fault, Faulty};
use super::support::s3::new_key;
use super::support::{Image, back_up, begin, good_points, request, restore, send_changes};
use crate::support::garbage::collect_garbage;

/// What the controllers' database is in the tests of the controller.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<HashMap<String, Claim>>);

impl Arbiter for Names {
    fn claim<'a>(&'a self, _: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<Claim, ArbiterError>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            let mut names = self.0.lock().unwrap();
            Ok(names.entry(claim.name.clone()).or_insert_with(|| claim.clone()).clone())
        })
    }

    fn release<'a>(&'a self, _: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<(), ArbiterError>> {
        Box::pin(async {
            let mut names = self.0.lock().unwrap();
            if names.get(&claim.name).is_some_and(|held| held.hash == claim.hash) {
                names.remove(&claim.name);
            }
            Ok(())
        })
    }

    /// All of them are, here.
    fn stale(&self, _: Uuid, _: Duration) -> BoxFuture<'_, Result<Vec<Claim>, ArbiterError>> {
        Box::pin(async {
            Ok(self.0.lock().unwrap().values().filter(|claim| claim.content.is_some()).cloned().collect())
        })
    }
}

/// Every write is taken, whatever its condition.
pub(crate) fn careless(store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    Faulty::over(store, Fault::Overwritten, "", 0, usize::MAX)
}

const MIB: usize = 1 << 20;

struct Place {
    key: KeyFile,
    _dir: tempfile::TempDir,
    objects: Arc<dyn ObjectStore>,
    names: Arc<Names>,
}

impl Place {
    async fn new() -> Self {
        let (dir, key) = new_key();
        let objects = careless(Arc::new(InMemory::new()));
        Vault::create_arbitrated(Storage::over(Arc::clone(&objects)), &key).await.unwrap();
        Self { key, _dir: dir, objects, names: Arc::default() }
    }

    /// As a gateway has it.
    async fn open(&self) -> Vault {
        self.open_through(Arc::clone(&self.objects)).await
    }

    async fn open_through(&self, objects: Arc<dyn ObjectStore>) -> Vault {
        let storage = Storage::over(objects)
            .with_arbiter(Arc::clone(&self.names) as Arc<dyn Arbiter>)
            .with_patience(Duration::from_millis(50));
        Vault::open(storage, &self.key).await.unwrap()
    }

    fn claimed(&self) -> Vec<String> {
        self.names.0.lock().unwrap().keys().cloned().collect()
    }
}

async fn sent(vault: &Vault, machine: Uuid, image: &Image) -> Backup {
    let backup = begin(vault, request(machine, &[("sda", image)])).await.unwrap();
    send_changes(&backup, "sda", image).await.unwrap();
    backup
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_without_asking_and_everything_is_read() {
    let place = Place::new().await;
    let header = place.objects.get(&"vault.json".into()).await.unwrap().bytes().await.unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(header["names"], "database");
    let machine = Uuid::new_v4();
    let image = Image::noise(1, MIB);
    let vault = place.open().await;
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    assert!(place.claimed().is_empty(), "{:?}", place.claimed());

    let unasked = Vault::open(Storage::over(Arc::clone(&place.objects)), &place.key).await.unwrap();
    assert!(restore(&unasked, &point, "sda").await.unwrap() == image);
    let error = back_up(&unasked, machine, &[("sda", &image)]).await.unwrap_err();
    assert!(matches!(error, VaultError::NoArbiter), "{error:?}");
    assert!(error.next_step().unwrap().contains("--alone"));
    let again = Vault::create_arbitrated(Storage::over(Arc::clone(&place.objects)), &place.key).await;
    assert!(matches!(again, Err(VaultError::AlreadyExists)), "{again:?}");
}

/// Two gateways; the slower write of either may come after everything else.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_commit_and_an_abort_at_once_one_stands() {
    let place = Place::new().await;
    let reaper = place.open().await;
    let image = Image::noise(2, 64 << 10);
    let (mut points, mut aborts) = (0, 0);
    for round in 0..60_u64 {
        let slow = Fault::Slow(Duration::from_millis(round % 3 * 2));
        let vault = place
            .open_through(Faulty::over(Arc::clone(&place.objects), slow, "points/", 0, usize::MAX))
            .await;
        let machine = Uuid::new_v4();
        let backup = sent(&vault, machine, &image).await;
        let (seq, prepared) = (backup.seq(), backup.prepare(&[]).await.unwrap());
        let reaper_ = reaper.clone();
        let wait = |micros: u64| tokio::time::sleep(Duration::from_micros(micros));
        let abort = tokio::spawn(async move {
            wait(round % 7 * 300).await;
            reaper_.conclude(machine, seq, "it seems dead").await.unwrap();
        });
        wait(round % 5 * 500).await;
        let committed = prepared.commit().await;
        abort.await.unwrap();
        match (committed, reaper.outcome(machine, seq).await.unwrap()) {
            (Ok(point), Some(Outcome::Point(stored))) => {
                assert_eq!(point, stored);
                assert!(restore(&reaper, &point, "sda").await.unwrap() == image);
                points += 1;
            }
            (Err(VaultError::Aborted { .. }), Some(Outcome::Aborted { .. })) => aborts += 1,
            other => panic!("round {round}: {other:?}"),
        }
        assert!(place.claimed().is_empty(), "{:?}", place.claimed());
    }
    assert!(points > 0 && aborts > 0, "nothing was proved: {points} points, {aborts} aborts");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_took_the_name_of_is_stored_by_the_next() {
    let place = Place::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(3, MIB);
    let killed = place
        .open_through(Faulty::over(Arc::clone(&place.objects), Fault::Stopped, "points/", 0, usize::MAX))
        .await;
    let backup = sent(&killed, machine, &image).await;
    let seq = backup.seq();
    let error = backup.prepare(&[]).await.unwrap().commit().await.unwrap_err();
    assert!(matches!(error, VaultError::Storage { .. }), "{error:?}");
    assert_eq!(place.claimed().len(), 1);

    let vault = place.open().await;
    assert!(good_points(&vault, machine).await.is_empty());
    vault.conclude(machine, seq, "it seems dead").await.unwrap();
    let points = good_points(&vault, machine).await;
    assert_eq!(points.len(), 1, "it had taken the name");
    assert!(restore(&vault, &points[0], "sda").await.unwrap() == image);
    assert!(place.claimed().is_empty(), "{:?}", place.claimed());
}

/// An outage that lasts: nobody asks for the name again, and weeks later what was decided then would come into force.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_stored_when_the_storage_is_back() {
    let place = Place::new().await;
    let (vault, machine) = (place.open().await, Uuid::new_v4());
    let image = Image::noise(3, MIB);
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    let away = Faulty::over(Arc::clone(&place.objects), Fault::Stopped, "points/", 0, usize::MAX);
    let error =
        place.open_through(away).await.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap_err();
    assert!(matches!(error, VaultError::Storage { .. }), "{error:?}");
    let state = async || vault.standing(machine, point.seq).await.unwrap().state;
    assert_eq!(state().await, PointState::Listed);
    assert_eq!(vault.finish_claims().await.unwrap(), 1);
    assert!(matches!(state().await, PointState::SoftDeleted(_)));
    assert!(place.claimed().is_empty(), "{:?}", place.claimed());
    assert_eq!(vault.finish_claims().await.unwrap(), 0);
}

/// It is not kept with the claim: whoever took the name would have to store it.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_which_only_the_name_is_taken_stops_nothing_else() {
    let place = Place::new().await;
    let vault = place.open().await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(4, MIB);
    let taken = |name: String| Claim { name, hash: [7; 32], content: None };
    let first = taken(format!("seg/{machine}/{:020}/{:08}.0", 1, 0));
    place.names.claim(vault.id(), &first).await.unwrap();
    let error = back_up(&vault, machine, &[("sda", &image)]).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let old = back_up(&vault, machine, &[("sda", &image)]).await.unwrap().seq;

    // The next generation of a segment that is to be compacted.
    image.change(5, 200);
    let kept = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    place.names.claim(vault.id(), &taken(format!("seg/{machine}/{old:020}/{:08}.1", 0))).await.unwrap();
    vault.decide_point(machine, old, AT_ONCE, "eva").await.unwrap();
    let collect = async || {
        let options = CollectOptions {
            clock: ClockTrust::Trusted,
            compaction: Compaction::All,
            least_gain: 1,
            ..CollectOptions::new(chrono::Utc::now())
        };
        collect_garbage(&vault, options, |_| {}).await.unwrap()
    };
    // The next but one.
    let report = collect().await;
    assert_eq!((report.held.len(), report.compacted_segments), (0, 1), "{report:?}");
    assert!(restore(&vault, &kept, "sda").await.unwrap() == image);
}

/// The condition is not even sent.
#[tokio::test]
async fn the_store_of_these_tests_is_careless() {
    let store = careless(Arc::new(InMemory::new()));
    for content in ["first", "second"] {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&"name".into(), content.into(), options).await.unwrap();
    }
    assert_eq!(store.get(&"name".into()).await.unwrap().bytes().await.unwrap(), "second");
}
