//! Vaults of earlier versions stay readable: `tests/golden/<format>` was written by the version that wrote that format first, and is
//! never written again; `<format>-database` is another one of it, whose names the controllers' database gives out, with the objects that
//! come and go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, CollectOptions, Compaction, KeyFile, Keys, LockMode, Passphrase, PointStatus, Samples, Storage,
    Unlock, Vault, VaultError, VerifyDepth, VerifyPace, VerifyScope,
};
use tempfile::TempDir;
use uuid::Uuid;

use super::arbiter::Names;
use super::collect::AT_ONCE;
use super::support::agent::changed_blocks;
use super::support::{
    Image, TestVault, back_up, begin, finish, request, restore, restore_disk, send_changes,
};
use crate::support::garbage::collect_garbage;

const PASSPHRASE: &str = "a passphrase of a golden vault";

/// Machine, number of the point, disk: BLAKE3 of its content.
type Contents = BTreeMap<String, String>;

/// A copy that may be changed; keys are only read if nobody else can.
fn copied(format: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format);
    let status = std::process::Command::new("cp")
        .args(["-r", "--no-preserve=mode", "--"])
        .args([&golden, &dir.path().join("golden")])
        .status();
    assert!(status.unwrap().success());
    let path = dir.path().join("golden");
    for name in ["first.key", "second.key"] {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path.join(name), private).unwrap();
    }
    (dir, path)
}

async fn contents(vault: &Vault) -> Contents {
    let mut contents = Contents::new();
    for machine in vault.machines().await.unwrap() {
        for status in vault.points(machine).await.unwrap() {
            let (point, state) = match status {
                PointStatus::Ok(point) => (point, "listed"),
                PointStatus::SoftDeleted(point, _) => (point, "soft_deleted"),
                PointStatus::Damaged { seq, error } => panic!("point {seq}: {error:?}"),
            };
            for disk in &point.disks {
                let image = restore(vault, &point, &disk.name).await.unwrap();
                let what = format!("{machine} {} {} {} {state}", point.seq, point.id, disk.name);
                contents.insert(what, blake3_hex(&image.0));
            }
        }
    }
    contents
}

fn blake3_hex(bytes: &[u8]) -> String {
    let hash = holdfast_vault_engine::cell_hash(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn told(contents: &Contents) -> String {
    contents.iter().map(|(what, hash)| format!("{hash} {what}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_of_format_1_reads_and_goes_on() {
    let (_dir, path) = copied("1");
    let expected = std::fs::read_to_string(path.join("contents")).unwrap();
    assert!(expected.lines().count() >= 8, "{expected}");
    let storage = || Storage::directory(&path.join("vault")).unwrap();
    let (first, second) =
        (KeyFile::load(&path.join("first.key")).unwrap(), KeyFile::load(&path.join("second.key")).unwrap());
    let passphrase = Passphrase::new(PASSPHRASE.to_owned());
    for unlock in [Unlock::Key(&first), Unlock::Key(&second), Unlock::Passphrase(&passphrase)] {
        let vault = Vault::open_with(Keys::unlock(storage(), unlock).await.unwrap()).unwrap();
        assert_eq!(told(&contents(&vault).await), expected);
    }
    let vault = Vault::open(storage(), &first).await.unwrap();
    let report =
        vault.verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await.unwrap();
    assert!(report.findings.is_empty() && report.read_segments > 3, "{report:?}");

    // It can be worked with: the next backup is an incremental, and a collection frees what is not needed.
    let machine = vault.machines().await.unwrap()[0];
    let newest = vault.points(machine).await.unwrap().pop().unwrap();
    let PointStatus::Ok(newest) = newest else { panic!("{newest:?}") };
    let mut image = restore(&vault, &newest, "sda").await.unwrap();
    image.change(99, 2);
    let next = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    assert!(next.disks[0].sent_bytes < 20_000 && next.disks[0].sent_bytes > 0, "{next:?}");
    let later = CollectOptions::new(Utc::now() + TimeDelta::hours(1));
    let report = collect_garbage(&vault, later, |_| {}).await.unwrap();
    assert!(report.held.is_empty(), "{report:?}");
    restore_disk(&vault, &next, "sda", &image).await;
    let after = told(&contents(&vault).await);
    assert!(expected.lines().all(|line| after.contains(line)), "{after}");
}

/// The files of a vault, sorted.
fn objects(vault: &Path) -> Vec<String> {
    let mut folders = vec![vault.to_owned()];
    let mut names = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    names.push(entry.path().strip_prefix(vault).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
    }
    names.sort();
    names
}

fn arbitrated(vault: &Path) -> Storage {
    Storage::directory(vault).unwrap().with_arbiter(Arc::new(Names::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_of_format_1_whose_names_are_in_a_database_reads_and_goes_on() {
    let (_dir, path) = copied("1-database");
    let expected = std::fs::read_to_string(path.join("contents")).unwrap();
    let (vault_dir, one, two) = (path.join("vault"), Uuid::from_u128(1), Uuid::from_u128(2));
    let before = objects(&vault_dir);
    let kept = |kind: &str, ending: &str| {
        before.iter().filter(|name| name.starts_with(kind) && name.ends_with(ending)).count()
    };
    assert_eq!((kept("open/", ""), kept("gc/", ".set"), kept("gc/", ".done")), (2, 1, 1), "{before:?}");
    assert_eq!(kept("keys/", ".00000001"), 1, "{before:?}");
    let (first, second) =
        (KeyFile::load(&path.join("first.key")).unwrap(), KeyFile::load(&path.join("second.key")).unwrap());
    let removed = Vault::open(Storage::directory(&vault_dir).unwrap(), &second).await;
    assert!(matches!(removed, Err(VaultError::WrongKey { .. })), "{removed:?}");

    // Reading asks nobody for a name.
    let reader = Vault::open(Storage::directory(&vault_dir).unwrap(), &first).await.unwrap();
    assert_eq!(told(&contents(&reader).await), expected);
    let report =
        reader.verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await.unwrap();
    assert!(report.findings.is_empty() && report.read_segments > 3, "{report:?}");
    let actions = async |seq| {
        let events = reader.events(one, seq).await.unwrap();
        events.into_iter().map(|event| event.action).collect::<Vec<_>>()
    };
    assert!(matches!(actions(1).await[..], [Action::Delete { .. }, Action::Undelete]));
    let locked = actions(2).await;
    assert!(matches!(locked[..], [Action::Lock { mode: LockMode::Compliance, .. }]), "{locked:?}");
    let unlocked = actions(3).await;
    assert!(matches!(unlocked[..], [Action::Lock { .. }, Action::Unlock]), "{unlocked:?}");
    let unasked = reader.decide_point(one, 3, AT_ONCE, "golden").await;
    assert!(matches!(unasked, Err(VaultError::NoArbiter)), "{unasked:?}");

    // It can be worked with: nobody deletes what is locked, what a dead backup sent is taken over, and what was condemned goes.
    let vault = Vault::open(arbitrated(&vault_dir), &first).await.unwrap();
    let refused = vault.decide_point(one, 2, AT_ONCE, "golden").await;
    assert!(matches!(refused, Err(VaultError::Refused { .. })), "{refused:?}");
    let sent = sent_and_not_committed(&last_of_one(&vault).await);
    let next = begin(&vault, request(one, &[("sda", &sent)])).await.unwrap();
    assert!(changed_blocks(&next, "sda", &sent).await.unwrap().is_empty());
    let next = finish(&next, &[("sda", &sent)]).await.unwrap();
    for _ in 0..2 {
        let later = CollectOptions::new(Utc::now() + TimeDelta::hours(1));
        let report = collect_garbage(&vault, later, |_| {}).await.unwrap();
        assert!(report.held.is_empty(), "{report:?}");
    }
    let left = objects(&vault_dir);
    assert!(!left.iter().any(|name| name.starts_with("open/") || name.ends_with(".set")), "{left:?}");
    restore_disk(&vault, &next, "sda", &sent).await;
    let after = told(&contents(&vault).await);
    assert!(expected.lines().all(|line| after.contains(line)), "{after}");
    back_up(&vault, two, &[("sda", &sent)]).await.unwrap();
}

async fn last_of_one(vault: &Vault) -> Image {
    let newest = vault.points(Uuid::from_u128(1)).await.unwrap().pop().unwrap();
    let PointStatus::Ok(newest) = newest else { panic!("{newest:?}") };
    restore(vault, &newest, "sda").await.unwrap()
}

/// What the disk of the first machine was when a backup began that has no outcome.
fn sent_and_not_committed(before: &Image) -> Image {
    let mut image = before.clone();
    image.change(30, 3);
    image
}

/// How `1-database` was made, like the other one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a golden vault"]
async fn make_a_golden_vault_with_names_in_a_database() {
    let Ok(into) = std::env::var("HOLDFAST_GOLDEN") else { return };
    let into = PathBuf::from(into);
    let path = into.join("vault");
    std::fs::create_dir(&path).unwrap();
    let first = KeyFile::generate(&into.join("first.key")).unwrap();
    Vault::create_arbitrated(Storage::directory(&path).unwrap(), &first).await.unwrap();
    let vault = Vault::open(arbitrated(&path), &first).await.unwrap();
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut image = Image::noise(1, 30_001);
    for round in 0..3 {
        image.change(10 + round, 2);
        back_up(&vault, one, &[("sda", &image)]).await.unwrap();
    }
    let century = (Utc::now() + TimeDelta::days(36_500)).timestamp_micros();
    for (seq, action) in [
        (1, Action::Delete { window_seconds: 3_000_000_000 }),
        (1, Action::Undelete),
        (2, Action::Lock { mode: LockMode::Compliance, until: century }),
        (3, Action::Lock { mode: LockMode::Governance, until: century }),
        (3, Action::Unlock),
    ] {
        vault.decide_point(one, seq, action, "golden").await.unwrap();
    }
    // What the first one alone needed is freed; what the second one alone needed, a backup may yet use that has not ended.
    let mut worn = Vec::new();
    for round in 0..3 {
        worn.push(back_up(&vault, two, &[("sda", &Image::noise(20 + round, 10_000))]).await.unwrap().seq);
    }
    vault.decide_point(two, worn[0], AT_ONCE, "golden").await.unwrap();
    collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
    let image = sent_and_not_committed(&last_of_one(&vault).await);
    let open = begin(&vault, request(one, &[("sda", &image)])).await.unwrap();
    send_changes(&open, "sda", &image).await.unwrap();
    open.flush().await.unwrap();
    vault.decide_point(two, worn[1], AT_ONCE, "golden").await.unwrap();
    let report = collect_garbage(&vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
    assert!(report.condemned_segments > 0 && report.deleted_segments == 0, "{report:?}");
    back_up(&vault, two, &[("sda", &Image::noise(29, 10_000))]).await.unwrap();
    let keys = Keys::unlock(arbitrated(&path), Unlock::Key(&first)).await.unwrap();
    let second = KeyFile::generate(&into.join("second.key")).unwrap();
    let added = keys.add_identity("second", &second.public()).await.unwrap();
    keys.remove(added.id).await.unwrap();
    let told = told(&contents(&Vault::open(arbitrated(&path), &first).await.unwrap()).await);
    std::fs::write(into.join("contents"), told).unwrap();
}

/// How the golden vault was made: `HOLDFAST_GOLDEN=DIR cargo test ... make_a_golden_vault -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a golden vault for a new format"]
async fn make_a_golden_vault() {
    let Ok(into) = std::env::var("HOLDFAST_GOLDEN") else { return };
    let into = PathBuf::from(into);
    let test = TestVault::new().await;
    let vault = test.vault.deduplicating(Arc::new(Samples::within(0)));
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut image = Image::noise(1, 50_000);
    image.0[20_000..40_000].fill(7);
    image.resize(90_000);
    let small = Image::noise(2, 5_000);
    back_up(&vault, one, &[("sda", &image), ("boot", &small)]).await.unwrap();
    let lent = image.clone();
    let deleted = back_up(&vault, two, &[("vda", &lent)]).await.unwrap();
    for round in 0..4 {
        image.change(10 + round, 1 + usize::try_from(round % 2).unwrap() * 4);
        image.resize([80_000, 120_000, 120_000, 110_001][usize::try_from(round).unwrap()]);
        back_up(&vault, one, &[("sda", &image)]).await.unwrap();
    }
    let lost = begin(&vault, request(one, &[("sda", &image)])).await.unwrap();
    image.change(20, 4);
    send_changes(&lost, "sda", &image).await.unwrap();
    lost.flush().await.unwrap();
    vault.conclude(one, lost.seq(), "lost").await.unwrap();
    let last = back_up(&vault, one, &[("sda", &image)]).await.unwrap();
    back_up(&vault, two, &[("vda", &lent)]).await.unwrap();
    vault
        .decide_point(two, deleted.seq, Action::Delete { window_seconds: 3_000_000_000 }, "golden")
        .await
        .unwrap();
    let until = (Utc::now() + TimeDelta::days(1)).timestamp_micros();
    vault
        .decide_point(one, last.seq, Action::Lock { mode: LockMode::Governance, until }, "golden")
        .await
        .unwrap();
    // Of a third machine's first backup, a part is needed.
    let three = Uuid::from_u128(3);
    let mut worn = Image::noise(3, 90_000);
    let first = back_up(&vault, three, &[("sda", &worn)]).await.unwrap();
    worn.0[20_000..70_000].fill(9);
    back_up(&vault, three, &[("sda", &worn)]).await.unwrap();
    vault.decide_point(three, first.seq, AT_ONCE, "golden").await.unwrap();
    let all =
        CollectOptions { compaction: Compaction::All, least_gain: 1, ..CollectOptions::new(Utc::now()) };
    let report = collect_garbage(&vault, all, |_| {}).await.unwrap();
    assert_eq!(report.compacted_segments, 1, "{report:?}");
    let keys = Keys::unlock(Storage::directory(&test.path).unwrap(), Unlock::Key(&test.key)).await.unwrap();
    let second = KeyFile::generate(&into.join("second.key")).unwrap();
    keys.add_identity("second", &second.public()).await.unwrap();
    keys.add_passphrase("third", &Passphrase::new(PASSPHRASE.to_owned())).await.unwrap();
    std::fs::write(into.join("contents"), told(&contents(&test.reopen().await.unwrap()).await)).unwrap();
    std::fs::copy(&test.key_path, into.join("first.key")).unwrap();
    let status = std::process::Command::new("cp").arg("-r").args([&test.path, &into.join("vault")]).status();
    assert!(status.unwrap().success());
}
