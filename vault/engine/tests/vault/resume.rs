//! Interrupted backups: what was durable is not sent again, what was not is, and nobody commits late.

use std::sync::Arc;
use std::time::Duration;

use holdfast_vault_engine::{Begun, BlockHasher, MapLayer, Outcome, VaultError};
use uuid::Uuid;

use super::support::agent::{changed_blocks, push_blocks, read_map};
use super::support::faulty::{Fault, Faulty};
use super::support::{
    Image, TestVault, back_up, begin, finish, good_points, request, restore_disk, send_changes,
};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_takes_over_what_was_durable() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let old = Image::mixed(20, 4 * MIB);
    back_up(&test.vault, machine, &[("sda", &old)]).await.unwrap();
    let mut image = old.clone();
    image.change(21, 200);
    image.resize(5 * MIB + 7);
    let changed = image.differing(&old);
    let (durable, lost) = changed.split_at(changed.len() / 2);

    let mut wanted = request(machine, &[("sda", &image)]);
    let interrupted = begin(&test.vault, wanted.clone()).await.unwrap();
    let receipts = push_blocks(&interrupted, "sda", &image, durable).await.unwrap();
    interrupted.flush().await.unwrap();
    for receipt in receipts {
        receipt.durable().await.unwrap();
    }
    let _never_acknowledged = push_blocks(&interrupted, "sda", &image, lost).await.unwrap();
    drop(interrupted);

    let vault = test.reopen().await.unwrap();
    wanted.attempt = 2;
    let resumed = begin(&vault, wanted).await.unwrap();
    let base = resumed.disk_base("sda").unwrap();
    assert!(base.has_overlay);
    let hasher = BlockHasher::new(&base.block_hash_key);
    let overlay = read_map(&resumed, "sda", MapLayer::Overlay).await.unwrap();
    let expected = durable.iter().map(|block| (*block as u64, hasher.hash(&image.block(*block)))).collect();
    assert_eq!(overlay, expected, "the overlay is exactly what was durable");
    let again = changed_blocks(&resumed, "sda", &image).await.unwrap();
    assert_eq!(again, lost, "only what was not durable is sent again");

    let point = finish(&resumed, &[("sda", &image)]).await.unwrap();
    assert_eq!(point.disks[0].changed_bytes, (changed.len() * 4096) as u64);
    restore_disk(&vault, &point, "sda", &image).await;
    assert_eq!(good_points(&vault, machine).await.len(), 2);
}

/// Under a new snapshot what was taken over is only a base layer: the newer content wins.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_snapshot_over_what_was_taken_over() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(22, 3 * MIB + 500);
    for round in 0..3 {
        let interrupted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
        send_changes(&interrupted, "sda", &image).await.unwrap();
        interrupted.flush().await.unwrap();
        image.change(23 + round, 60);
        // Smaller each time: what was taken over reaches beyond the end.
        image.resize(image.0.len() - 300_000);
    }
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let end = image.blocks() as u64;
    let overlay = read_map(&backup, "sda", MapLayer::Overlay).await.unwrap();
    assert!(!overlay.is_empty(), "nothing was taken over");
    assert!(overlay.keys().all(|block| *block < end), "the map speaks of blocks that the disk does not have");
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
    image.change(30, 20);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_is_refused() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(24, MIB);
    let late = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&late, "sda", &image).await.unwrap();
    let prepared = late.prepare(&[]).await.unwrap();
    let open = test.vault.unconcluded(machine).await.unwrap();
    assert_eq!(open.iter().map(|open| open.seq).collect::<Vec<_>>(), [late.seq()]);
    assert!(test.vault.outcome(machine, late.seq()).await.unwrap().is_none());
    let outcome = test.vault.conclude(machine, late.seq(), "the agent is lost").await.unwrap();
    assert!(matches!(outcome, Outcome::Aborted { .. }));
    assert!(test.vault.unconcluded(machine).await.unwrap().is_empty());
    match prepared.commit().await {
        Err(VaultError::Aborted { seq, reason }) => {
            assert_eq!((seq, &*reason), (late.seq(), "the agent is lost"))
        }
        other => panic!("{other:?}"),
    }
    assert!(good_points(&test.vault, machine).await.is_empty());
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    assert!(point.seq > late.seq());
    restore_disk(&test.vault, &point, "sda", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conclude_answers_with_the_point_that_is_there() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(25, MIB);
    let wanted = request(machine, &[("sda", &image)]);
    let backup = begin(&test.vault, wanted.clone()).await.unwrap();
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    match test.vault.conclude(machine, point.seq, "too late").await.unwrap() {
        Outcome::Point(found) => assert_eq!(found, point),
        Outcome::Aborted { .. } => panic!("a point was aborted"),
    }
    match test.vault.begin(wanted).await.unwrap() {
        Begun::AlreadyCommitted(found) => assert_eq!(found, point),
        Begun::Open(_) => panic!("an attempt began twice"),
    }
}

/// Whoever begins later has concluded whoever began before: of two, at most the last can commit.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_begins_leave_one_that_can_commit() {
    let test = TestVault::new().await;
    let image = Image::mixed(26, MIB / 4);
    for round in 0..12 {
        let machine = Uuid::new_v4();
        let begins = (0..4).map(|_| {
            let vault = test.vault.clone();
            let wanted = request(machine, &[("sda", &image)]);
            tokio::spawn(async move { begin(&vault, wanted).await })
        });
        let mut backups = Vec::new();
        for begun in begins.collect::<Vec<_>>() {
            backups.push(begun.await.unwrap().unwrap());
        }
        let mut seqs: Vec<u64> = backups.iter().map(holdfast_vault_engine::Backup::seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        assert_eq!(seqs.len(), 4, "a sequence number was given twice");
        let last = *seqs.last().unwrap();
        let mut committed = Vec::new();
        for backup in &backups {
            match finish(backup, &[("sda", &image)]).await {
                Ok(point) => committed.push(point.seq),
                Err(VaultError::Aborted { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(committed, [last], "round {round}");
    }
}

/// While a segment is still being written, no flush may say that everything is durable: not a second one, and not one
/// after the first was given up by its caller.
#[tokio::test(flavor = "multi_thread")]
async fn no_flush_answers_early() {
    let test = TestVault::new().await;
    let slow = Faulty::new(&test.path, Fault::Slow(Duration::from_millis(600)), "seg/", 0, usize::MAX);
    let vault = test.open_through(slow).await;
    let machine = Uuid::new_v4();
    let image = Image::noise(27, MIB);
    let segments = |test: &TestVault| test.objects().iter().filter(|name| name.starts_with("seg/")).count();

    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    push_blocks(&backup, "sda", &image, &[0, 1]).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(50), backup.flush()).await;
    assert!(given_up.is_err(), "the flush was not slow");
    backup.flush().await.unwrap();
    assert_eq!(segments(&test), 1, "a flush answered before its segment was there");

    push_blocks(&backup, "sda", &image, &[2, 3]).await.unwrap();
    let flushes = (0..3).map(|_| {
        let backup = backup.clone();
        tokio::spawn(async move { backup.flush().await })
    });
    for flush in flushes.collect::<Vec<_>>() {
        flush.await.unwrap().unwrap();
        assert_eq!(segments(&test), 2, "a flush answered before its segment was there");
    }
}

/// A push that its caller gives up, as when a stream breaks, must not take a sealed segment with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_given_up_loses_nothing() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Arc::new(Image::noise(28, 40 * MIB));
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let blocks: Vec<usize> = (0..image.blocks()).collect();
    for frame in blocks.chunks(256) {
        // Polled once and dropped: the work has begun, nobody waits for it.
        let push = push_blocks(&backup, "sda", &image, frame);
        let mut push = std::pin::pin!(push);
        let _ = futures::poll!(push.as_mut());
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        backup.flush().await.unwrap();
        if changed_blocks(&backup, "sda", &image).await.unwrap().is_empty() {
            break;
        }
        // What never got far enough to be taken is sent again, as an agent would.
        assert!(tokio::time::Instant::now() < deadline, "pushes hang");
        tokio::time::sleep(Duration::from_millis(50)).await;
        send_changes(&backup, "sda", &image).await.unwrap();
    }
    let point = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
    restore_disk(&test.reopen().await.unwrap(), &point, "sda", &image).await;
}

/// Two begins that cannot see each other's number: the one whose creation was slow notices and starts over.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_was_overtaken_starts_over() {
    let test = TestVault::new().await;
    let slow = Faulty::new(&test.path, Fault::Slow(Duration::from_millis(400)), "open/", 0, 1);
    let slow = test.open_through(slow).await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(29, MIB / 4);
    let overtaken = tokio::spawn({
        let wanted = request(machine, &[("sda", &image)]);
        async move { begin(&slow, wanted).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut wanted = request(machine, &[("sda", &image)]);
    wanted.at_least_seq = 10;
    let fast = begin(&test.vault, wanted).await.unwrap();
    assert_eq!(fast.seq(), 11);
    let overtaken = overtaken.await.unwrap();
    assert!(overtaken.seq() > fast.seq(), "it kept number {}", overtaken.seq());
    assert!(matches!(finish(&fast, &[("sda", &image)]).await, Err(VaultError::Aborted { seq: 11, .. })));
    finish(&overtaken, &[("sda", &image)]).await.unwrap();
    assert_eq!(good_points(&test.vault, machine).await.len(), 1);
}

/// Hashes come from segments that are durable, on their way or still open; pushes go on meanwhile, and seal some of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_read_while_more_comes() {
    let test = TestVault::new().await;
    let slow = Faulty::new(&test.path, Fault::Slow(Duration::from_millis(300)), "seg/", 0, usize::MAX);
    let vault = test.open_through(slow).await;
    let machine = Uuid::new_v4();
    let image = Arc::new(Image::noise(31, 72 * MIB));
    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    let hasher = BlockHasher::new(&backup.disk_base("sda").unwrap().block_hash_key);
    let blocks: Vec<usize> = (0..image.blocks()).collect();
    let pushes = tokio::spawn({
        let (backup, image, blocks) = (backup.clone(), Arc::clone(&image), blocks.clone());
        async move { push_blocks(&backup, "sda", &image, &blocks).await.map(drop) }
    });
    let mut seen = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while seen < blocks.len() {
        assert!(tokio::time::Instant::now() < deadline, "it stays at {seen} blocks");
        let map = read_map(&backup, "sda", MapLayer::Merged).await.unwrap();
        assert!(map.len() >= seen, "blocks are forgotten");
        seen = map.len();
        for (block, hash) in map {
            assert_eq!(hash, hasher.hash(&image.block(usize::try_from(block).unwrap())), "block {block}");
        }
    }
    pushes.await.unwrap().unwrap();
    let point = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
}
