//! A vault on a file system that really is full.

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::Utc;
use holdfast_vault_engine::{Action, CollectOptions};
use uuid::Uuid;

use super::support::{Image, TestVault, back_up, good_points, restore_disk};

const MIB: usize = 1 << 20;

/// A small file system in memory; unmounted when it goes.
struct Mount(PathBuf);

impl Mount {
    /// `None` without the right to mount.
    fn new(path: &Path, size_mib: usize) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let options = format!("size={size_mib}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output().ok()?;
        mount.status.success().then(|| Self(path.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_refused_and_later_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mount");
    let Some(mount) = Mount::new(&path, 8) else {
        eprintln!(
            "SKIPPED: no right to mount a tmpfs; storage without space is covered by the faulty store only"
        );
        return;
    };
    let test = TestVault::at(dir, path.clone()).await;
    let machine = Uuid::new_v4();
    let small = Image::noise(70, 2 * MIB);
    let first = back_up(&test.vault, machine, &[("sda", &small)]).await.unwrap();

    let ballast = path.join("ballast");
    std::fs::write(&ballast, vec![1; 3 * MIB]).unwrap();
    let mut large = Image::noise(71, 5 * MIB);
    for _ in 0..3 {
        let error = back_up(&test.vault, machine, &[("sda", &large)]).await.unwrap_err();
        assert!(error.is_no_space(), "{error:?}");
        let vault = test.reopen().await.unwrap();
        assert_eq!(good_points(&vault, machine).await, std::slice::from_ref(&first));
        restore_disk(&vault, &first, "sda", &small).await;
    }
    // Not a byte left: not even an abort can be written.
    let _ = std::fs::write(path.join("rest"), vec![1; 8 * MIB]);
    let error = back_up(&test.vault, machine, &[("sda", &large)]).await.unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
    assert_eq!(good_points(&test.vault, machine).await, std::slice::from_ref(&first));

    std::fs::remove_file(ballast).unwrap();
    std::fs::remove_file(path.join("rest")).unwrap();
    large.resize(3 * MIB);
    let second = back_up(&test.vault, machine, &[("sda", &large)]).await.unwrap();
    let vault = test.reopen().await.unwrap();
    restore_disk(&vault, &second, "sda", &large).await;
    restore_disk(&vault, &first, "sda", &small).await;
    assert_eq!(good_points(&vault, machine).await.len(), 2);
    drop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_byte_is_free_points_are_deleted_and_collected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mount");
    let Some(mount) = Mount::new(&path, 16) else {
        eprintln!("SKIPPED: no right to mount a tmpfs, so nothing is full");
        return;
    };
    let test = TestVault::at(dir, path.clone()).await;
    let vault = &test.vault;
    vault.keep_reserve().await;
    let machine = Uuid::new_v4();
    let images = [Image::noise(1, 3 * MIB), Image::noise(2, 3 * MIB)];
    let mut points = Vec::new();
    for image in &images {
        points.push(back_up(vault, machine, &[("sda", image)]).await.unwrap());
    }
    let _ = std::fs::write(path.join("rest"), vec![1; 16 * MIB]);
    let probe = std::fs::write(path.join("probe"), b"x").unwrap_err();
    assert_eq!(probe.kind(), std::io::ErrorKind::StorageFull);
    let larger = Image::noise(3, 3 * MIB);
    let error = back_up(vault, machine, &[("sda", &larger)]).await.unwrap_err();
    assert!(error.is_no_space(), "backups do not spend what is set aside: {error:?}");

    let delete = Action::Delete { window_seconds: 0 };
    vault.decide_point(machine, points[0].seq, delete, "alice").await.unwrap();
    let mut freed = 0;
    for _ in 0..2 {
        let report = vault.collect(CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
        freed += report.deleted_bytes;
    }
    assert!(freed > 2 * MIB as u64, "{freed}");
    restore_disk(vault, &points[1], "sda", &images[1]).await;
    vault.keep_reserve().await;
    std::fs::remove_file(path.join("rest")).unwrap();
    let third = back_up(vault, machine, &[("sda", &images[0])]).await.unwrap();
    restore_disk(vault, &third, "sda", &images[0]).await;
    drop(mount);
}
