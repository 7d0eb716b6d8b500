//! Harmed objects that restore nothing: decisions, collections, backups under way, keys. What they say is not believed, and what
//! follows from not knowing is at most that something waits or is sent again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, CollectOptions, CollectionReport, KeyFile, Keys, LockMode, Point, Storage, Unlock, Vault,
    VaultError, chain,
};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::anatomy::Anatomist;
use super::support::image::Random;
use super::support::{Image, TestVault, back_up, begin, finish, request, restore_disk, send_changes};
use crate::support::garbage::collect_garbage;

const SIZE: usize = 200_000;

/// An object flipped in each of its regions, cut, garbage, another one, and `None`: gone.
fn harms(test: &TestVault, name: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let whole = std::fs::read(test.path.join(name)).unwrap();
    let mut random = Random(3);
    let mut harms = vec![("gone".to_owned(), None), ("garbage".to_owned(), Some(vec![7; whole.len()]))];
    harms.push(("empty".to_owned(), Some(Vec::new())));
    for (region, range) in Anatomist::new(&test.path, &test.key_path).regions(name, &whole) {
        let at = range.start + random.below(range.len());
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << random.below(8);
        harms.push((format!("flipped at {at} ({region:?})"), Some(flipped)));
        harms.push((format!("cut at {at}"), Some(whole[..at].to_vec())));
    }
    let folder = name.split('/').next().unwrap();
    for other in test.objects().iter().filter(|other| *other != name && other.starts_with(folder)) {
        harms.push((format!("in its place {other}"), Some(std::fs::read(test.path.join(other)).unwrap())));
    }
    harms
}

/// Runs `look` while an object is harmed in each way, on a vault that was opened since. Answers how often.
async fn with_each(test: &TestVault, name: &str, look: impl AsyncFn(Vault, &str, bool)) -> usize {
    let path = test.path.join(name);
    let whole = std::fs::read(&path).unwrap();
    let harms = harms(test, name);
    let count = harms.len();
    for (what, bytes) in harms {
        match &bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let what = format!("{name} is harmed: {what}");
        look(test.reopen().await.unwrap(), &what, bytes.is_none()).await;
        std::fs::write(&path, &whole).unwrap();
    }
    count
}

fn names<T: std::fmt::Debug>(result: Result<T, VaultError>, name: &str, what: &str) {
    let error = result.unwrap_err();
    assert!(error.is_damage() && chain(&error).contains(name), "{what}: {error:?}");
}

fn named(test: &TestVault, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    test.objects().into_iter().filter(|name| wanted(name)).collect()
}

async fn points(test: &TestVault, machine: Uuid) -> Vec<(Point, Image)> {
    let mut points = Vec::new();
    for seed in 0..3 {
        let image = Image::noise(seed, SIZE);
        points.push((back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap(), image));
    }
    points
}

/// Else a lock would be forgotten, or what was undeleted purged.
#[tokio::test(flavor = "multi_thread")]
async fn while_an_event_is_harmed_nothing_is_decided_or_collected() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let points = points(&test, machine).await;
    let until = (Utc::now() + TimeDelta::days(9)).timestamp_micros();
    let lock = Action::Lock { mode: LockMode::Governance, until };
    for (point, action) in [(0, lock), (1, AT_ONCE), (1, Action::Undelete), (2, AT_ONCE)] {
        test.vault.decide_point(machine, points[point].0.seq, action, "eva").await.unwrap();
    }
    let events = named(&test, |name| name.starts_with("points/") && name.contains('.'));
    assert_eq!(events.len(), 4);
    for name in events {
        let (of, number) = name.rsplit_once('.').unwrap();
        let seq: u64 = of.rsplit('/').next().unwrap().parse().unwrap();
        let next = format!("{of}.{:08}", number.parse::<u32>().unwrap() + 1);
        let is_last = !test.path.join(next).try_exists().unwrap();
        with_each(&test, &name, async |vault, what, is_gone| {
            // Nothing says that there was a last one. It is the catalogue that knows.
            if is_gone && is_last {
                return;
            }
            names(vault.standing(machine, seq).await, &name, what);
            names(vault.decide_point(machine, seq, AT_ONCE, "eva").await, &name, what);
            let report = collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
            let [(held, error)] = &*report.held else { panic!("{what}: {report:?}") };
            assert!(*held == machine && chain(error).contains(&name), "{what}: {error:?}");
            let changed = (report.purged.len(), report.condemned_segments, report.deleted_segments);
            assert_eq!(changed, (0, 0, 0), "{what}");
            for (point, image) in &points {
                restore_disk(&vault, point, "sda", image).await;
            }
        })
        .await;
    }
}

fn at(start: DateTime<Utc>, minutes: i64) -> CollectOptions {
    CollectOptions::new(start + TimeDelta::minutes(minutes))
}

/// They are no more than the vault's time: without one of them, a window ends later.
#[tokio::test(flavor = "multi_thread")]
async fn a_harmed_collection_ends_no_window_early() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let (points, start) = (points(&test, machine).await, Utc::now());
    collect_garbage(&test.vault, at(start, 10), |_| {}).await.unwrap();
    let hour = Action::Delete { window_seconds: 3600 };
    test.vault.decide_point(machine, points[0].0.seq, hour, "eva").await.unwrap();
    // It begins here.
    for minutes in [20, 30] {
        collect_garbage(&test.vault, at(start, minutes), |_| {}).await.unwrap();
    }
    let purged = async |vault: &Vault, minutes| {
        let plan = vault.plan_collection(at(start, minutes), |_| {}).await.unwrap();
        assert!(plan.held.is_empty(), "{plan:?}");
        plan.purged.len()
    };
    assert_eq!((purged(&test.vault, 79).await, purged(&test.vault, 81).await), (0, 1));
    let epochs = named(&test, |name| name.starts_with("gc/"));
    assert_eq!(epochs.len(), 3);
    for name in epochs {
        with_each(&test, &name, async |vault, what, _| {
            assert_eq!(purged(&vault, 79).await, 0, "{what}");
            // The one after that in which the window begins speaks for it, ten minutes later.
            let is_first_of_window = name.ends_with('2');
            assert_eq!(purged(&vault, 81).await, usize::from(!is_first_of_window), "{what}");
            assert_eq!(purged(&vault, 91).await, 1, "{what}");
        })
        .await;
    }
}

fn impatient() -> CollectOptions {
    CollectOptions { keep_leftovers: Duration::ZERO, ..CollectOptions::new(Utc::now() + TimeDelta::hours(1)) }
}

async fn leave_over(vault: &Vault, machine: Uuid, image: &Image) {
    let lost = begin(vault, request(machine, &[("sda", image)])).await.unwrap();
    send_changes(&lost, "sda", image).await.unwrap();
    lost.flush().await.unwrap();
    vault.conclude(machine, lost.seq(), "lost").await.unwrap();
}

async fn collected(vault: &Vault) -> CollectionReport {
    let report = collect_garbage(vault, impatient(), |_| {}).await.unwrap();
    assert!(report.held.is_empty(), "{report:?}");
    report
}

/// What it condemned is not known then, so nothing that is stored is used, and nothing is deleted by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_harmed_set_lets_nothing_be_taken_over_or_deleted() {
    let test = TestVault::new().await;
    let (machine, other) = (Uuid::new_v4(), Uuid::new_v4());
    let image = Image::noise(1, SIZE);
    let kept = back_up(&test.vault, other, &[("sda", &image)]).await.unwrap();
    leave_over(&test.vault, machine, &image).await;
    let waited_for = begin(&test.vault, request(other, &[("sda", &image)])).await.unwrap();
    let report = collected(&test.vault).await;
    assert!(report.condemned_segments == 1 && !report.waiting_for.is_empty(), "{report:?}");
    leave_over(&test.vault, machine, &image).await;
    let sets = named(&test, |name| name.ends_with(".set"));
    let [name] = &*sets else { panic!("{sets:?}") };
    let takes_over = async |vault: &Vault| {
        let next = begin(vault, request(machine, &[("sda", &image)])).await.unwrap();
        let takes_over = next.disk_base("sda").unwrap().has_overlay;
        vault.conclude(machine, next.seq(), "only looked").await.unwrap();
        takes_over
    };
    assert!(takes_over(&test.vault).await);
    with_each(&test, name, async |vault, what, is_gone| {
        if is_gone {
            // Nothing says that it was there. What it condemned is used as if it were not, and a point that needs it counts.
            return;
        }
        assert!(!takes_over(&vault).await, "{what}");
    })
    .await;

    let segment = format!("seg/{machine}/{:020}/00000000.0", 1);
    std::fs::write(test.path.join(name), b"harmed").unwrap();
    let vault = test.reopen().await.unwrap();
    let options = CollectOptions::new(Utc::now());
    assert_eq!(collect_garbage(&vault, options, |_| {}).await.unwrap().deleted_segments, 0);
    assert!(test.objects().contains(&segment));
    finish(&waited_for, &[("sda", &image)]).await.unwrap();
    for _ in 0..2 {
        collected(&vault).await;
    }
    assert!(!test.objects().contains(&segment), "it is condemned again");
    restore_disk(&vault, &kept, "sda", &image).await;
}

/// Only its name counts: its bytes are read by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_what_says_that_a_set_is_gone_are_of_no_effect() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(1, SIZE);
    leave_over(&test.vault, machine, &image).await;
    assert_eq!(collected(&test.vault).await.deleted_segments, 1);
    leave_over(&test.vault, machine, &image).await;
    let done = named(&test, |name| name.ends_with(".done"));
    let [name] = &*done else { panic!("{done:?}") };
    with_each(&test, name, async |vault, what, _| {
        let plan = vault.plan_collection(impatient(), |_| {}).await.unwrap();
        assert_eq!((plan.condemned_segments, plan.held.len()), (1, 0), "{what}");
        let next = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
        assert!(next.disk_base("sda").unwrap().has_overlay, "{what}");
        vault.conclude(machine, next.seq(), "only looked").await.unwrap();
    })
    .await;
}

/// What such a backup may use cannot be told: it holds collections until it is concluded, and whoever begins next goes by its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_harmed_open_object_holds_collections_until_its_backup_is_concluded() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let points = points(&test, machine).await;
    test.vault.decide_point(machine, points[0].0.seq, AT_ONCE, "eva").await.unwrap();
    let image = Image::noise(9, SIZE);
    let open = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&open, "sda", &image).await.unwrap();
    open.flush().await.unwrap();
    let plan = test.vault.plan_collection(CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
    let condemned = plan.condemned_segments;
    let all = named(&test, |name| name.starts_with("open/"));
    assert_eq!(all.len(), 4);
    for name in &all {
        let is_undecided = name.ends_with(&format!("{:020}", open.seq()));
        with_each(&test, name, async |vault, what, is_gone| {
            let unconcluded = vault.unconcluded(machine).await.unwrap();
            let plan = vault.plan_collection(CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
            if !is_undecided || is_gone {
                // It says nothing that matters any more. Or nothing says that a backup is under way: what it stored stays all the same,
                // since nobody decided about it.
                assert!(plan.held.is_empty(), "{what}: {plan:?}");
                assert_eq!(plan.condemned_segments, condemned, "{what}");
                assert_eq!(unconcluded.len(), usize::from(!is_undecided), "{what}");
                return;
            }
            let [unconcluded] = &*unconcluded else { panic!("{what}: {unconcluded:?}") };
            assert_eq!((unconcluded.seq, unconcluded.step_id), (open.seq(), Uuid::nil()), "{what}");
            let [(_, error)] = &*plan.held else { panic!("{what}: {plan:?}") };
            assert!(chain(error).contains(name), "{what}: {error:?}");
            assert_eq!(plan.condemned_segments, 0, "{what}");
        })
        .await;
    }
    // The next attempt finds everything that was stored.
    let name = all.last().unwrap();
    std::fs::write(test.path.join(name), b"harmed").unwrap();
    let vault = test.reopen().await.unwrap();
    let next = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert_eq!(send_changes(&next, "sda", &image).await.unwrap(), 0);
    let point = finish(&next, &[("sda", &image)]).await.unwrap();
    let report = collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
    assert!(report.held.is_empty() && report.deleted_segments > 0, "{report:?}");
    restore_disk(&vault, &point, "sda", &image).await;
}

/// Else somebody might be removed whom nobody meant.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_removal_is_harmed_nobody_is_removed() {
    let test = TestVault::new().await;
    let storage = || Storage::directory(&test.path).unwrap();
    let keys = || Keys::unlock(storage(), Unlock::Key(&test.key));
    let added = [KeyFile::new(), KeyFile::new()];
    let mut ids = Vec::new();
    for key in &added {
        ids.push(keys().await.unwrap().add_identity("some", &key.public()).await.unwrap().id);
    }
    keys().await.unwrap().remove(ids[0]).await.unwrap();
    let removals = named(&test, |name| name.starts_with("keys/") && name.ends_with(".00000001"));
    let [name] = &*removals else { panic!("{removals:?}") };
    let whole = std::fs::read(test.path.join(name)).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(test.path.join(name), flipped).unwrap();
        names(keys().await.unwrap().remove(ids[1]).await, name, &format!("flipped at {at}"));
        Vault::open(storage(), &added[1]).await.unwrap();
        assert!(Vault::open(storage(), &added[0]).await.is_err());
    }
    std::fs::write(test.path.join(name), whole).unwrap();
    keys().await.unwrap().remove(ids[1]).await.unwrap();
    assert!(Vault::open(storage(), &added[1]).await.is_err());
}
