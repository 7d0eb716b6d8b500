//! Vaults of earlier versions stay readable: `tests/golden/<format>` was written by the version that wrote that format first, and is
//! never written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, CollectOptions, Compaction, KeyFile, Keys, LockMode, Passphrase, PointStatus, Samples, Storage,
    Unlock, Vault, VerifyDepth, VerifyPace, VerifyScope,
};
use tempfile::TempDir;
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::{Image, TestVault, back_up, begin, request, restore, restore_disk, send_changes};
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
