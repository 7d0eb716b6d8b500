//! A vault on a file system that really is full: one in memory, and those that vaults are kept on.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::Utc;
use holdfast_vault_engine::{Action, CollectOptions};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use uuid::Uuid;

use super::support::disk::Disk;
use super::support::{Image, TestVault, back_up, good_points, restore_disk};
use crate::support::garbage::collect_garbage;
use crate::support::skip::skip;

const MIB: usize = 1 << 20;

/// What it takes to make one, and how large it is. They differ in what they find out when: space is given out at a write, later, or for
/// names and bytes apart.
const FILE_SYSTEMS: [(&[&str], u64); 4] = [
    (&["tmpfs"], 16 << 20),
    (&["mkfs.ext4", "-q", "-F", "-m", "0"], 64 << 20),
    (&["mkfs.xfs", "-q", "-f"], 300 << 20),
    (&["mkfs.btrfs", "-q", "-f"], 128 << 20),
];

/// A small file system; unmounted when it goes.
enum Small {
    Memory(PathBuf),
    Device(Disk),
}

impl Small {
    /// `None`, which is said, without the right to mount or without its tools.
    fn new(dir: &Path, (format, size): (&[&str], u64)) -> Option<Self> {
        if format != ["tmpfs"] {
            return Disk::make_of(dir, format, size).map(Self::Device);
        }
        let path = dir.join("mount");
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        if !mount.is_ok_and(|mount| mount.status.success()) {
            skip("no right to mount a tmpfs, so nothing is full");
            return None;
        }
        Some(Self::Memory(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Memory(path) => path,
            Self::Device(disk) => &disk.mount_point,
        }
    }

    /// A vault in it, and the file system.
    async fn with_vault(of: (&[&str], u64)) -> Option<(TestVault, Self)> {
        let dir = tempfile::tempdir().unwrap();
        let small = Self::new(dir.path(), of)?;
        let path = small.path().join("vault");
        std::fs::create_dir(&path).unwrap();
        Some((TestVault::at(dir, path).await, small))
    }

    /// Takes all but so many bytes.
    fn take_all_but(&self, left: usize) {
        let file = File::create(self.path().join("ballast")).unwrap();
        let system = statvfs(self.path()).unwrap();
        let mut wanted = (system.f_bfree * system.f_frsize).saturating_sub(left as u64);
        // What is said to be free is not all for files.
        while wanted > 0 && fallocate(&file, FallocateFlags::empty(), 0, wanted).is_err() {
            wanted = wanted.saturating_sub(1 << 18);
        }
    }

    /// Takes what is left, to the last byte of a file, or until there is no room for its name.
    fn take_the_rest(&self) {
        for size in [MIB, 4096, 1] {
            let refused = match File::create(self.path().join(format!("rest-{size}"))) {
                Err(error) => error,
                Ok(mut file) => loop {
                    if let Err(error) = file.write_all(&vec![1; size]).and_then(|()| file.sync_data()) {
                        break error;
                    }
                },
            };
            assert_eq!(refused.kind(), ErrorKind::StorageFull);
        }
    }

    fn give_back(&self) {
        for name in
            ["ballast".to_owned()].into_iter().chain([MIB, 4096, 1].map(|size| format!("rest-{size}")))
        {
            match std::fs::remove_file(self.path().join(name)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.unwrap(),
            }
        }
        // Until then some give nothing of it to others.
        assert!(Command::new("sync").arg("-f").arg(self.path()).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let Self::Memory(path) = self else { return };
        let unmounted = Command::new("umount").arg("-l").arg(&*path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_refused_and_later_works() {
    for of in FILE_SYSTEMS {
        let Some((test, small)) = Small::with_vault(of).await else { continue };
        println!("{of:?}");
        let machine = Uuid::new_v4();
        let image = Image::noise(70, 2 * MIB);
        let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();

        small.take_all_but(3 * MIB);
        let mut large = Image::noise(71, 5 * MIB);
        for _ in 0..3 {
            let error = back_up(&test.vault, machine, &[("sda", &large)]).await.unwrap_err();
            assert!(error.is_no_space(), "{error:?}");
            let vault = test.reopen().await.unwrap();
            assert_eq!(good_points(&vault, machine).await, std::slice::from_ref(&first));
            restore_disk(&vault, &first, "sda", &image).await;
        }
        // Not a byte left: where names need some, not even an abort can be written.
        small.take_the_rest();
        let error = back_up(&test.vault, machine, &[("sda", &large)]).await.unwrap_err();
        assert!(error.is_no_space(), "{error:?}");
        assert_eq!(good_points(&test.vault, machine).await, std::slice::from_ref(&first));

        small.give_back();
        large.resize(3 * MIB);
        let second = back_up(&test.vault, machine, &[("sda", &large)]).await.unwrap();
        let vault = test.reopen().await.unwrap();
        restore_disk(&vault, &second, "sda", &large).await;
        restore_disk(&vault, &first, "sda", &image).await;
        assert_eq!(good_points(&vault, machine).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_byte_is_free_points_are_deleted_and_collected() {
    for of in FILE_SYSTEMS {
        let Some((test, small)) = Small::with_vault(of).await else { continue };
        println!("{of:?}");
        let vault = &test.vault;
        vault.keep_reserve().await;
        let machine = Uuid::new_v4();
        let images = [Image::noise(1, 3 * MIB), Image::noise(2, 3 * MIB)];
        let mut points = Vec::new();
        for image in &images {
            points.push(back_up(vault, machine, &[("sda", image)]).await.unwrap());
        }
        small.take_all_but(2 * MIB);
        small.take_the_rest();
        let larger = Image::noise(3, 3 * MIB);
        let error = back_up(vault, machine, &[("sda", &larger)]).await.unwrap_err();
        assert!(error.is_no_space(), "backups do not spend what is set aside: {error:?}");

        let delete = Action::Delete { window_seconds: 0 };
        vault.decide_point(machine, points[0].seq, delete, "alice").await.unwrap();
        let mut freed = 0;
        for _ in 0..2 {
            let report = collect_garbage(vault, CollectOptions::new(Utc::now()), |_| {}).await.unwrap();
            freed += report.deleted_bytes;
        }
        assert!(freed > 2 * MIB as u64, "{freed}");
        restore_disk(vault, &points[1], "sda", &images[1]).await;
        vault.keep_reserve().await;
        small.give_back();
        let third = back_up(vault, machine, &[("sda", &images[0])]).await.unwrap();
        restore_disk(vault, &third, "sda", &images[0]).await;
    }
}
