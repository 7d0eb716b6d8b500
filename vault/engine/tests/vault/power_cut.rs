//! What is acknowledged survives a power cut, also when the writer before was killed between a name and its sync. The
//! file systems are real ones on loop devices; the power cut is a copy of what has reached the device.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast_vault_engine::{Outcome, Samples, Storage, Vault};
use tempfile::TempDir;
use uuid::Uuid;

use super::support::agent::push_blocks;
use super::support::disk::{Disk, FORMATS};
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore_disk, send_changes,
};

const MIB: usize = 1 << 20;

struct Bed {
    disk: Disk,
    test: TestVault,
    machine: Uuid,
}

impl Bed {
    async fn new(format: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::make(dir.path(), format)?;
        let path = disk.mount_point.join("vault");
        std::fs::create_dir(&path).unwrap();
        let test = TestVault::at(dir, path).await;
        // Made by hand, so synced by hand.
        std::fs::File::open(&disk.mount_point).unwrap().sync_all().unwrap();
        Some(Self { disk, test, machine: Uuid::new_v4() })
    }

    /// As a writer leaves the objects below `prefix` that is killed after it linked them: bytes durable, names not.
    fn unsync(&self, prefix: &str) {
        let objects: Vec<PathBuf> =
            self.test.objects().iter().map(|name| self.test.path.join(name)).collect();
        let staged = |object: &Path| PathBuf::from(format!("{}#1", object.display()));
        let objects = objects.iter().filter(|object| object.starts_with(self.test.path.join(prefix)));
        for object in objects.clone() {
            std::fs::rename(object, staged(object)).unwrap();
            std::fs::File::open(staged(object)).unwrap().sync_all().unwrap();
            std::fs::File::open(object.parent().unwrap()).unwrap().sync_all().unwrap();
        }
        // Or the sync of the point would carry the names along.
        assert!(Command::new("sync").arg("-f").arg(&self.test.path).status().unwrap().success());
        for object in objects {
            std::fs::hard_link(staged(object), object).unwrap();
        }
    }

    /// The vault after a power cut at this moment.
    async fn after_power_cut(&self, elsewhere: &TempDir) -> (Disk, Vault) {
        let disk = self.disk.after_power_cut(&elsewhere.path().join("cut"));
        let vault =
            Vault::open(Storage::directory(&disk.mount_point.join("vault")).unwrap(), &self.test.key).await;
        (disk, vault.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_outlives_a_power_cut() {
    for format in FORMATS {
        let Some(bed) = Bed::new(format).await else { continue };
        let image = Image::noise(200, 2 * MIB);
        let point = back_up(&bed.test.vault, bed.machine, &[("sda", &image)]).await.unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let (_disk, vault) = bed.after_power_cut(&elsewhere).await;
        assert_eq!(good_points(&vault, bed.machine).await, std::slice::from_ref(&point));
        restore_disk(&vault, &point, "sda", &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_taken_over_from_a_killed_writer_outlive_a_power_cut() {
    for format in FORMATS {
        let Some(bed) = Bed::new(format).await else { continue };
        let image = Image::noise(201, 2 * MIB);
        let killed = begin(&bed.test.vault, request(bed.machine, &[("sda", &image)])).await.unwrap();
        push_blocks(&killed, "sda", &image, &(0..300).collect::<Vec<_>>()).await.unwrap();
        killed.flush().await.unwrap();
        bed.unsync("seg");

        let vault = bed.test.reopen().await.unwrap();
        let next = begin(&vault, request(bed.machine, &[("sda", &image)])).await.unwrap();
        let point = finish(&next, &[("sda", &image)]).await.unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let (_disk, vault) = bed.after_power_cut(&elsewhere).await;
        assert_eq!(good_points(&vault, bed.machine).await, std::slice::from_ref(&point));
        restore_disk(&vault, &point, "sda", &image).await;
    }
}

/// What a killed writer of another machine stored is referred to, by this backup or by the one that it takes over.
#[tokio::test(flavor = "multi_thread")]
async fn segments_borrowed_from_a_killed_writer_outlive_a_power_cut() {
    for (format, is_taken_over) in FORMATS.into_iter().flat_map(|format| [(format, false), (format, true)]) {
        let Some(bed) = Bed::new(format).await else { continue };
        let image = Image::noise(203, 2 * MIB);
        let (lender, borrower) = (Uuid::new_v4(), bed.machine);
        let killed = begin(&bed.test.vault, request(lender, &[("sda", &image)])).await.unwrap();
        send_changes(&killed, "sda", &image).await.unwrap();
        killed.flush().await.unwrap();
        let deduplicating = || bed.test.vault.deduplicating(Arc::new(Samples::within(0)));
        if is_taken_over {
            let vault = deduplicating();
            vault.learn_samples(|_| {}).await.unwrap();
            let lost = begin(&vault, request(borrower, &[("sda", &image)])).await.unwrap();
            send_changes(&lost, "sda", &image).await.unwrap();
            lost.flush().await.unwrap();
        }
        bed.unsync(&format!("seg/{lender}"));

        let vault = deduplicating();
        vault.learn_samples(|_| {}).await.unwrap();
        let point = back_up(&vault, borrower, &[("sda", &image)]).await.unwrap();
        assert!(point.disks[0].stored_bytes < MIB as u64 / 4, "it is borrowed: {point:?}");
        let elsewhere = tempfile::tempdir().unwrap();
        let (_disk, vault) = bed.after_power_cut(&elsewhere).await;
        assert_eq!(good_points(&vault, borrower).await, std::slice::from_ref(&point));
        restore_disk(&vault, &point, "sda", &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_was_seen_outlives_a_power_cut() {
    for format in FORMATS {
        let Some(bed) = Bed::new(format).await else { continue };
        let image = Image::noise(202, MIB);
        let point = back_up(&bed.test.vault, bed.machine, &[("sda", &image)]).await.unwrap();
        bed.unsync("points");
        // What the reconciler asks before it lists a point whose gateway died.
        let seen = bed.test.vault.outcome(bed.machine, point.seq).await.unwrap();
        assert_eq!(seen, Some(Outcome::Point(point.clone())));
        let elsewhere = tempfile::tempdir().unwrap();
        let (_disk, vault) = bed.after_power_cut(&elsewhere).await;
        assert_eq!(good_points(&vault, bed.machine).await, [point]);
    }
}
