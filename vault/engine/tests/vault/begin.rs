//! What a backup begins with: who else began, and what can be read of the points before.

use std::time::Duration;

use holdfast_vault_engine::{PointStatus, VaultError};
use uuid::Uuid;

use super::support::faulty::{Fault, Faulty};
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore_disk, send_changes,
};

const SIZE: usize = 200_000;
const MOMENT: Duration = Duration::from_millis(100);

/// Flips a byte in the middle of an object.
fn damage(test: &TestVault, name: &str) {
    let path = test.path.join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Waits until a backup with this number has begun.
async fn begun(test: &TestVault, machine: Uuid, seq: u64) {
    let open = test.path.join(format!("open/{machine}/{seq:020}"));
    for _ in 0..200 {
        if open.try_exists().unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("backup {seq} did not begin");
}

/// Two begins that cannot see each other's number: the one with the larger number ends the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_number_that_came_in_between_is_concluded() {
    let test = TestVault::new().await;
    let slow = Faulty::new(&test.path, Fault::Slow(4 * MOMENT), "open/", 0, 1);
    let slow = test.open_through(slow).await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(300, SIZE);
    let mut wanted = request(machine, &[("sda", &image)]);
    wanted.at_least_seq = 10;
    let larger = tokio::spawn(async move { begin(&slow, wanted).await.unwrap() });
    tokio::time::sleep(MOMENT).await;
    let smaller = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let larger = larger.await.unwrap();
    assert_eq!((smaller.seq(), larger.seq()), (1, 11));
    let refused = finish(&smaller, &[("sda", &image)]).await;
    assert!(matches!(refused, Err(VaultError::Aborted { seq: 1, .. })), "{refused:?}");
    finish(&larger, &[("sda", &image)]).await.unwrap();
    assert_eq!(good_points(&test.vault, machine).await.len(), 1);
}

/// Concluded before its begin has answered: it takes another number instead of one that cannot commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_was_concluded_meanwhile_starts_over() {
    let test = TestVault::new().await;
    let late = Faulty::new(&test.path, Fault::Late(4 * MOMENT), "open/", 0, 1);
    let late = test.open_through(late).await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(301, SIZE);
    let wanted = request(machine, &[("sda", &image)]);
    let backup = tokio::spawn(async move { begin(&late, wanted).await.unwrap() });
    begun(&test, machine, 1).await;
    test.vault.conclude(machine, 1, "nobody knows it").await.unwrap();
    let backup = backup.await.unwrap();
    assert_eq!(backup.seq(), 2);
    finish(&backup, &[("sda", &image)]).await.unwrap();
}

/// Damage is passed over, and told: the newest point that reads is built upon.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_points_and_aborts_do_not_stop_backups() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(302, SIZE);
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    image.change(303, 3);
    let second = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    damage(&test, &format!("points/{machine}/{:020}", second.seq));
    let vault = test.reopen().await.unwrap();
    let listed = vault.points(machine).await.unwrap();
    assert!(matches!(&listed[0], PointStatus::Ok(point) if *point == first), "{listed:?}");
    assert!(matches!(&listed[1], PointStatus::Damaged { seq, .. } if *seq == second.seq), "{listed:?}");
    assert_eq!(listed.len(), 2);

    let interrupted = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert_eq!(interrupted.disk_base("sda").unwrap().map_id, first.map_id("sda"));
    vault.conclude(machine, interrupted.seq(), "for the test").await.unwrap();
    damage(&test, &format!("points/{machine}/{:020}", interrupted.seq()));
    let vault = test.reopen().await.unwrap();
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
    assert_eq!(point.previous.map(|previous| previous.seq), Some(first.seq));
}

/// A storage that does not answer says nothing about the points: no backup starts from scratch for that, and none is
/// called damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_storage_is_no_damage() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(304, SIZE);
    back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let aborted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    test.vault.conclude(machine, aborted.seq(), "for the test").await.unwrap();
    // What came since the newest point, that point, its deltas.
    for (prefix, good) in [("points/", 0), ("points/", 1), ("seg/", 0)] {
        let vault = test.open_through(Faulty::new(&test.path, Fault::Unreadable, prefix, good, 1)).await;
        let error = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap_err();
        assert!(matches!(error, VaultError::Storage { .. }), "{prefix} after {good}: {error:?}");
        assert!(error.is_retryable() && !error.is_damage());
        // It may have begun before it failed.
        for open in test.vault.unconcluded(machine).await.unwrap() {
            test.vault.conclude(machine, open.seq, "for the test").await.unwrap();
            let object = format!("points/{machine}/{:020}", open.seq);
            std::fs::remove_file(test.path.join(object)).unwrap();
            std::fs::remove_file(test.path.join(format!("open/{machine}/{:020}", open.seq))).unwrap();
        }
    }
    let vault = test.open_through(Faulty::new(&test.path, Fault::Unreadable, "points/", 0, 1)).await;
    let error = vault.points(machine).await.unwrap_err();
    assert!(matches!(error, VaultError::Storage { .. }), "{error:?}");
    let vault = test.open_through(Faulty::new(&test.path, Fault::Unreadable, "open/", 0, 1)).await;
    begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let error = vault.unconcluded(machine).await.unwrap_err();
    assert!(matches!(error, VaultError::Storage { .. }), "{error:?}");
}

/// A segment to be taken over that cannot be read now is not thrown away as a damaged one is.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_segment_is_not_left_behind() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(305, SIZE);
    let interrupted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&interrupted, "sda", &image).await.unwrap();
    interrupted.flush().await.unwrap();
    let vault = test.open_through(Faulty::new(&test.path, Fault::Unreadable, "seg/", 0, 1)).await;
    let error = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap_err();
    assert!(matches!(error, VaultError::Storage { .. }), "{error:?}");
    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(backup.disk_base("sda").unwrap().has_overlay);
}

/// What is open names whom it is of; what does not read can only be concluded.
#[tokio::test(flavor = "multi_thread")]
async fn open_backups_are_named() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(306, SIZE);
    let mut wanted = request(machine, &[("sda", &image)]);
    wanted.attempt = 3;
    let backup = begin(&test.vault, wanted.clone()).await.unwrap();
    let [open] = &*test.vault.unconcluded(machine).await.unwrap() else { panic!("one is open") };
    assert_eq!((open.machine, open.seq), (machine, backup.seq()));
    assert_eq!((open.step_id, open.attempt, open.snapshot_id), (wanted.step_id, 3, wanted.snapshot_id));
    damage(&test, &format!("open/{machine}/{:020}", backup.seq()));
    let [open] = &*test.vault.unconcluded(machine).await.unwrap() else { panic!("one is open") };
    assert_eq!((open.machine, open.seq), (machine, backup.seq()));
    assert_eq!((open.step_id, open.attempt, open.snapshot_id), (Uuid::nil(), 0, Uuid::nil()));
}
