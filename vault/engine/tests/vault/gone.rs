//! A vault that goes away while it is open leaves an empty folder, in which anything can be created.

use std::process::Command;

use uuid::Uuid;

use holdfast_vault_engine::{VaultError, VerifyDepth, VerifyPace, VerifyScope};

use super::support::disk::{Disk, FORMATS};
use super::support::{Image, TestVault, back_up, good_points, restore_disk};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_the_vault_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (path, away) = (dir.path().join("vault"), dir.path().join("away"));
    std::fs::create_dir(&path).unwrap();
    let test = TestVault::at(dir, path.clone()).await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(90, 2 * MIB);
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();

    // As an unmount does: the folder is there, and empty.
    std::fs::rename(&path, &away).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap_err();
    assert!(matches!(error, VaultError::Gone) && error.is_retryable() && !error.is_damage(), "{error:?}");
    let error = test.vault.outcome(machine, first.seq).await.unwrap_err();
    assert!(matches!(error, VaultError::Gone), "a point is not missing because the vault is: {error:?}");
    let error = test.vault.conclude(machine, 99, "test").await.unwrap_err();
    assert!(matches!(error, VaultError::Gone), "{error:?}");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "something was kept where the vault is not");

    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&away, &path).unwrap();
    image.resize(3 * MIB);
    let second = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    assert_eq!(good_points(&test.vault, machine).await, [first, second.clone()]);
    restore_disk(&test.vault, &second, "sda", &image).await;
}

/// The disk below a file system is gone, and what is in memory still reads: `vault.json` does, and nothing is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gives_nothing_damages_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::make(dir.path(), FORMATS[0]) else { return };
    let path = disk.mount_point.join("vault");
    std::fs::create_dir(&path).unwrap();
    // Unmounted before its folder goes.
    let bed = (disk, TestVault::at(dir, path).await);
    let (disk, test) = (&bed.0, &bed.1);
    let machine = Uuid::new_v4();
    let image = Image::noise(91, 2 * MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
    test.vault.check_readable().await.unwrap();
    assert!(Command::new("sync").arg("-f").arg(&test.path).status().unwrap().success());

    // Whatever is read of the device from here on is an I/O error.
    std::fs::File::options().write(true).open(&disk.backing).unwrap().set_len(0).unwrap();
    let scope = VerifyScope::Vault;
    let verified = test.vault.verify(scope, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await;
    let error = verified.expect_err("everything is called damaged");
    assert!(!error.is_damage() && error.is_retryable(), "{error:?}");
    let error = test.vault.check_readable().await.unwrap_err();
    assert!(matches!(error, VaultError::Gone), "{error:?}");
}
