//! What killed writers leave: it goes, and nothing else does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::CollectOptions;
use object_store::ObjectStoreExt as _;
use object_store::local::LocalFileSystem;
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::faulty::{Fault, Faulty};
use super::support::{Image, TestVault, back_up, begin, good_points, request, restore_disk, send_changes};
use crate::support::garbage::collect_garbage;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn age(path: &Path, age: Duration) {
    File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

/// A file that was written to so long ago.
fn leave(path: PathBuf, since: Duration) -> PathBuf {
    std::fs::write(&path, b"half a segment").unwrap();
    age(&path, since);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn only_old_staging_files_of_decided_backups_go() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(7, 1 << 20);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let segments = test.path.join("seg").join(machine.to_string());
    let decided = segments.join(format!("{:020}", point.seq));
    let old = 2 * DAY;
    let swept = [leave(decided.join("00000000.0#1"), old), leave(decided.join("00000007.12#305"), old)];

    let open = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let undecided = segments.join(format!("{:020}", open.seq()));
    std::fs::create_dir_all(&undecided).unwrap();
    std::fs::create_dir_all(decided.join("00000001.0#1")).unwrap();
    std::fs::create_dir_all(segments.join("1")).unwrap();
    std::fs::create_dir_all(test.path.join("seg/other/00000000000000000001")).unwrap();
    let mut kept = vec![
        leave(decided.join("00000000.0#2"), DAY - Duration::from_secs(600)),
        leave(undecided.join("00000000.0#1"), old),
        leave(segments.join("1/00000000.0#1"), old),
        leave(segments.join("00000000.0#1"), old),
        leave(test.path.join("seg/other/00000000000000000001/00000000.0#1"), old),
        leave(test.path.join(format!("points/{machine}/{:020}#1", point.seq)), old),
    ];
    for lookalike in
        ["00000000.0#", "00000000.0#x", "00000000.0#1#1", "0000000.0#1", "00000000#1", "00000000.0.bak"]
    {
        kept.push(leave(decided.join(lookalike), old));
    }
    std::os::unix::fs::symlink(decided.join("00000000.0"), decided.join("00000000.0#3")).unwrap();
    age(&decided.join("00000000.0"), old);
    kept.extend([decided.join("00000000.0#3"), decided.join("00000000.0"), decided.join("00000001.0#1")]);

    assert_eq!(test.vault.sweep_staging(DAY).await.unwrap(), swept.len());
    for path in swept {
        assert!(!path.try_exists().unwrap(), "{path:?} is still there");
    }
    for path in kept {
        assert!(path.symlink_metadata().is_ok(), "{path:?} is gone");
    }
    assert_eq!(good_points(&test.vault, machine).await, std::slice::from_ref(&point));
    restore_disk(&test.vault, &point, "sda", &image).await;

    test.vault.conclude(machine, open.seq(), "test").await.unwrap();
    assert_eq!(
        test.vault.sweep_staging(DAY).await.unwrap(),
        1,
        "once it is decided, its leftovers go as well"
    );
    assert_eq!(test.vault.sweep_staging(DAY).await.unwrap(), 0);
}

/// The names are those that the object store really gives.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_object_store_stages_is_recognised() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let point = back_up(&test.vault, machine, &[("sda", &Image::noise(8, 1 << 20))]).await.unwrap();
    let before = test.objects();
    let object = format!("seg/{machine}/{:020}/00000009.0", point.seq);
    let store = LocalFileSystem::new_with_prefix(&test.path).unwrap();
    // As a kill does: nobody cleans up.
    std::mem::forget(store.put_multipart(&object.as_str().into()).await.unwrap());
    let mut staged = test.objects();
    staged.retain(|name| !before.contains(name));
    assert_eq!(staged.len(), 1, "{staged:?}");
    age(&test.path.join(&staged[0]), 2 * DAY);
    assert_eq!(test.vault.sweep_staging(DAY).await.unwrap(), 1);
    assert_eq!(test.objects(), before);
}

/// Of what was purged and collected no folder stays, or each begin would look into it for ever.
#[tokio::test(flavor = "multi_thread")]
async fn empty_folders_of_decided_backups_go() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut points = Vec::new();
    for seed in 20..24 {
        let image = Image::noise(seed, 1 << 20);
        points.push(back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap());
    }
    let (newest, purged) = points.split_last().unwrap();
    for point in purged {
        test.vault.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap();
    }
    let later = CollectOptions::new(Utc::now() + TimeDelta::hours(1));
    collect_garbage(&test.vault, later, |_| {}).await.unwrap();
    let open = begin(&test.vault, request(machine, &[("sda", &Image::noise(9, 4096))])).await.unwrap();
    let folder = |seq: u64| test.path.join(format!("seg/{machine}/{seq:020}"));
    std::fs::create_dir(folder(open.seq())).unwrap();
    for point in purged {
        assert_eq!(std::fs::read_dir(folder(point.seq)).unwrap().count(), 0, "{}", point.seq);
    }

    let young = purged[0].seq;
    let seqs = points.iter().map(|point| point.seq).chain([open.seq()]);
    seqs.filter(|seq| *seq != young).for_each(|seq| age(&folder(seq), 2 * DAY));
    test.vault.sweep_staging(DAY).await.unwrap();
    let is_there = |seq: u64| folder(seq).try_exists().unwrap();
    assert!(is_there(young) && is_there(newest.seq) && is_there(open.seq()));
    assert!(purged[1..].iter().all(|point| !is_there(point.seq)));
    age(&folder(young), 2 * DAY);
    test.vault.sweep_staging(DAY).await.unwrap();
    assert!(!is_there(young));

    let image = Image::noise(23, 1 << 20);
    restore_disk(&test.reopen().await.unwrap(), newest, "sda", &image).await;
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
}

/// What a begin is about to take over goes meanwhile, with its folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_goes_while_a_backup_begins_stops_nothing() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(10, 1 << 20);
    let interrupted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&interrupted, "sda", &image).await.unwrap();
    interrupted.flush().await.unwrap();
    let folder = test.path.join(format!("seg/{machine}/{:020}", interrupted.seq()));
    let listed = Faulty::new(&test.path, Fault::Stopped, "seg/", usize::MAX, 0);
    let vault = test.open_through(listed.clone()).await;
    listed.after_list(move || std::fs::remove_dir_all(folder).unwrap());
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
}
