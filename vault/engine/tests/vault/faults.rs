//! Storage that fails at any write: a clean refusal, nothing listed that does not restore, and the next backup works.

use std::time::Duration;

use holdfast_vault_engine::{Outcome, PointStatus, VaultError};
use uuid::Uuid;

use super::support::faulty::{Fault, Faulty};
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore_disk, send_changes,
};

const MIB: usize = 1 << 20;

/// Every write of a backup fails once, each in a run of its own.
#[tokio::test(flavor = "multi_thread")]
async fn no_space_at_every_write() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(50, MIB);
    let mut truths = vec![image.clone()];
    back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let mut refused = 0;
    for good in 0..10 {
        image.change(51 + good as u64, 20);
        let full = Faulty::new(&test.path, Fault::NoSpace, "", good, usize::MAX);
        let vault = test.open_through(full.clone()).await;
        match back_up(&vault, machine, &[("sda", &image)]).await {
            Ok(point) => {
                truths.push(image.clone());
                restore_disk(&vault, &point, "sda", &image).await;
            }
            Err(error) => {
                refused += 1;
                assert!(error.is_no_space(), "after {good} writes: {error:?}");
                assert!(error.is_retryable() && !error.is_damage() && !error.is_invalid_input());
            }
        }
        let listed = good_points(&test.vault, machine).await;
        assert_eq!(listed.len(), truths.len(), "a refused backup is listed");
        full.heal();
        let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
        truths.push(image.clone());
        restore_disk(&vault, &point, "sda", &image).await;
    }
    assert_eq!(refused, 3, "open, segment, point: each of them was refused once");
    let points = good_points(&test.reopen().await.unwrap(), machine).await;
    for (point, truth) in points.iter().zip(&truths) {
        restore_disk(&test.vault, point, "sda", truth).await;
    }
}

/// The write happened and the answer was lost. Asking again gives the truth.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_the_commit() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(60, MIB);
    let lossy = Faulty::new(&test.path, Fault::AnswerLost, "points/", 0, 1);
    let vault = test.open_through(lossy).await;
    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&backup, "sda", &image).await.unwrap();
    let prepared = backup.prepare(&[]).await.unwrap();
    let expected = prepared.point().clone();
    let error = prepared.commit().await.unwrap_err();
    assert!(error.is_retryable() && !error.is_damage(), "{error:?}");
    assert_eq!(prepared.commit().await.unwrap(), expected);
    // Whoever settles it later finds the point, and cannot abort it.
    match test.vault.conclude(machine, backup.seq(), "unsettled").await.unwrap() {
        Outcome::Point(point) => assert_eq!(point, expected),
        Outcome::Aborted { .. } => panic!("a committed point was aborted"),
    }
    restore_disk(&test.vault, &expected, "sda", &image).await;
}

/// The answer to a segment's write was lost: the backup fails, and the next one takes over what was written.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_segment() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(61, MIB);
    let lossy = Faulty::new(&test.path, Fault::AnswerLost, "seg/", 0, 1);
    let vault = test.open_through(lossy).await;
    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    let error = finish(&backup, &[("sda", &image)]).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let next = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert_eq!(send_changes(&next, "sda", &image).await.unwrap(), 0);
    let point = finish(&next, &[("sda", &image)]).await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
}

/// A failed segment fails every receipt and flush after it, and the commit.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_segment_nothing_is_acknowledged() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(62, MIB);
    let full = Faulty::new(&test.path, Fault::NoSpace, "seg/", 0, 1);
    let vault = test.open_through(full).await;
    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    let blocks: Vec<usize> = (0..image.blocks()).collect();
    let receipts = super::support::agent::push_blocks(&backup, "sda", &image, &blocks).await.unwrap();
    assert!(backup.flush().await.unwrap_err().is_no_space());
    for receipt in receipts {
        assert!(receipt.durable().await.unwrap_err().is_no_space());
    }
    assert!(backup.flush().await.unwrap_err().is_no_space(), "the failure was forgotten");
    let refused = super::support::agent::push_blocks(&backup, "sda", &image, &blocks).await;
    assert!(refused.unwrap_err().is_no_space(), "a backup that cannot be committed takes more data");
    let refused = backup.prepare(&[]).await.map(drop);
    assert!(refused.unwrap_err().is_no_space(), "a backup with a lost segment was committed");
    assert!(test.vault.points(machine).await.unwrap().is_empty());
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
}

/// A segment's name is its backup's alone: what is there under it is either the segment, or none of this backup's.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_there_already_counts_only_if_it_is_the_same() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(64, MIB);
    let vault = test.open_through(Faulty::new(&test.path, Fault::Repeated, "seg/", 0, usize::MAX)).await;
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;

    let machine = Uuid::new_v4();
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let folder = test.path.join(format!("seg/{machine}/{:020}", backup.seq()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("00000000.0"), "somebody else's").unwrap();
    let refused = finish(&backup, &[("sda", &image)]).await;
    assert!(matches!(refused, Err(VaultError::Broken)), "{refused:?}");
    assert!(test.vault.points(machine).await.unwrap().is_empty());
}

/// While segments cannot be written, no more is taken than a few of them hold: the memory of a backup is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_storage_holds_the_agent_up() {
    const SEGMENT: usize = 32 * MIB;
    let test = TestVault::new().await;
    let image = Image::noise(65, MIB);
    let never = Fault::Slow(Duration::from_secs(3600));
    let vault = test.open_through(Faulty::new(&test.path, never, "seg/", 0, usize::MAX)).await;
    let backup = begin(&vault, request(Uuid::new_v4(), &[("sda", &image)])).await.unwrap();
    let blocks: Vec<usize> = (0..image.blocks()).collect();
    let push = || super::support::agent::push_blocks(&backup, "sda", &image, &blocks);
    let mut taken = 0;
    while let Ok(pushed) = tokio::time::timeout(Duration::from_secs(2), push()).await {
        pushed.unwrap();
        taken += MIB;
        assert!(taken < 6 * SEGMENT, "it takes more and more");
    }
    assert!((3 * SEGMENT - MIB..4 * SEGMENT + MIB).contains(&taken), "{taken}");
}

/// What a killed writer leaves beside the objects is not taken for one.
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_ignored() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(63, MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let seq = format!("{:020}", point.seq);
    for name in
        [format!("points/{machine}/{seq}#1"), format!("points/{machine}/junk"), "points/junk/1".to_owned()]
    {
        let path = test.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"half of an object").unwrap();
    }
    let vault = test.reopen().await.unwrap();
    assert_eq!(vault.machines().await.unwrap(), [machine]);
    assert_eq!(vault.point_seqs(machine).await.unwrap(), [point.seq]);
    assert_eq!(good_points(&vault, machine).await, [point]);
}

/// The newest point's data is gone: the next backup does not build on it, and is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_base_is_not_built_upon() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(64, MIB);
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let segment = test.objects().into_iter().find(|name| name.starts_with("seg/")).unwrap();
    std::fs::remove_file(test.path.join(segment)).unwrap();
    let vault = test.reopen().await.unwrap();
    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert_eq!(backup.disk_base("sda").unwrap().base_size_bytes, 0);
    let second = finish(&backup, &[("sda", &image)]).await.unwrap();
    restore_disk(&vault, &second, "sda", &image).await;
    let error = super::support::restore(&vault, &first, "sda").await.unwrap_err();
    assert!(matches!(error, VaultError::DamagedRange { .. }), "{error:?}");
}

/// A point that was there, by the word of its successor, and is gone or another is reported.
#[tokio::test(flavor = "multi_thread")]
async fn a_point_missing_from_the_chain_is_reported() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(65, MIB);
    let mut points = Vec::new();
    for round in 0..3 {
        image.change(66 + round, 5);
        points.push(back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap());
    }
    let gone = format!("points/{machine}/{:020}", points[1].seq);
    std::fs::remove_file(test.path.join(&gone)).unwrap();
    let listed = test.reopen().await.unwrap().points(machine).await.unwrap();
    let damaged: Vec<_> = listed
        .iter()
        .filter_map(|status| match status {
            PointStatus::Damaged { seq, error } => Some((*seq, error.to_string())),
            PointStatus::Ok(_) | PointStatus::SoftDeleted(..) => None,
        })
        .collect();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].0, points[1].seq);
    assert!(damaged[0].1.contains(&gone), "{damaged:?}");
    restore_disk(&test.vault, &points[2], "sda", &image).await;
}
