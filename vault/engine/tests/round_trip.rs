//! What goes in comes out: full, incremental, unchanged, grown, shrunk; resumed; fenced.

mod support;

use holdfast_vault_engine::{Begun, MapLayer, Outcome, PointStatus, VaultError};
use support::{Bed, MACHINE, begin, noise, objects, padded, read_map, request, restore, send};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_through_its_life() {
    let bed = Bed::new().await;
    let mut image = noise(1, 5 * MIB + 1234);
    image[MIB..2 * MIB].fill(0);
    let full = bed.backup(&[("data", &image)]).await;
    assert_eq!(full.disks[0].size_bytes, image.len() as u64);
    let before = image.clone();

    image[3 * MIB..3 * MIB + 5000].copy_from_slice(&noise(2, 5000));
    image[100] ^= 1;
    image[4 * MIB..4 * MIB + 8192].fill(0);
    let changed = bed.backup(&[("data", &image)]).await;
    assert_eq!(changed.disks[0].changed_bytes, 5 * 4096);

    let unchanged = bed.backup(&[("data", &image)]).await;
    assert_eq!((unchanged.disks[0].changed_bytes, unchanged.disks[0].sent_bytes), (0, 0));
    assert_eq!(unchanged.disks[0].stack, changed.disks[0].stack);

    let mut grown = image.clone();
    grown.extend(noise(3, MIB + 77));
    bed.backup(&[("data", &grown)]).await;
    let shrunk = noise(1, 2 * MIB + 3);
    bed.backup(&[("data", &shrunk)]).await;
    let mut again = shrunk.clone();
    again.resize(6 * MIB, 0);
    bed.backup(&[("data", &again)]).await;
    // A shrink within nothing but the size, and a disk of less than a block.
    bed.backup(&[("data", &again[..100])]).await;

    let other = bed.reopen().await.unwrap();
    assert_eq!(restore(&other, &full, "data").await.unwrap(), before);
    assert_eq!(restore(&other, &unchanged, "data").await.unwrap(), image);
    let points = other.points(MACHINE).await.unwrap();
    assert_eq!(points.len(), 7);
    assert!(points.iter().all(|point| matches!(point, PointStatus::Ok(_))));
    assert_eq!(other.machines().await.unwrap(), [MACHINE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_disks_and_one_that_comes_later() {
    let bed = Bed::new().await;
    let (one, mut two) = (noise(1, 3 * MIB), noise(2, 40 * MIB));
    bed.backup(&[("one", &one), ("two", &two)]).await;
    two[39 * MIB] ^= 1;
    let three = vec![0; 2 * MIB];
    let point = bed.backup(&[("two", &two), ("three", &three)]).await;
    assert_eq!(point.disks[0].changed_bytes, 4096);
    assert_eq!(point.disks[1].sent_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_are_the_growth_of_the_vault() {
    let bed = Bed::new().await;
    let size =
        |bed: &Bed| objects(&bed.root()).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    let empty = size(&bed);
    let mut image = noise(1, 70 * MIB);
    let full = bed.backup(&[("data", &image)]).await;
    assert_eq!(size(&bed) - empty, full.disks[0].stored_bytes, "full");
    let before = size(&bed);
    image[MIB..MIB + 9000].fill(7);
    let incremental = bed.backup(&[("data", &image)]).await;
    assert_eq!(size(&bed) - before, incremental.disks[0].stored_bytes, "incremental");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_is_that_of_the_disk() {
    let bed = Bed::new().await;
    let mut image = noise(1, 2 * MIB + 5);
    image[8192..65536].fill(0);
    bed.backup(&[("data", &image)]).await;
    image[MIB] ^= 1;
    bed.backup(&[("data", &image)]).await;
    let backup = begin(&bed.vault, &[("data", &image)], 1).await;
    let hasher = holdfast_vault_engine::BlockHasher::new(&backup.disk_base("data").unwrap().block_hash_key);
    let truth =
        (0_u64..).zip(padded(&image).chunks(4096)).map(|(at, block)| (at, hasher.hash(block))).collect();
    assert_eq!(read_map(&backup, "data", MapLayer::Merged).await.unwrap(), truth);
    assert!(read_map(&backup, "data", MapLayer::Overlay).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_durable_is_not_sent_again() {
    let bed = Bed::new().await;
    let mut image = noise(1, 20 * MIB);
    bed.backup(&[("data", &image)]).await;
    image[..10 * MIB].copy_from_slice(&noise(5, 10 * MIB));
    let first = begin(&bed.vault, &[("data", &image)], 1).await;
    let half = [&image[..5 * MIB], &noise(1, 20 * MIB)[5 * MIB..]].concat();
    assert_eq!(send(&first, "data", &half).await, 5 * MIB / 4096);
    let late = first.clone();

    // Another gateway, after a crash of the first: a block has changed once more meanwhile.
    let other = bed.reopen().await.unwrap();
    image[4096] ^= 1;
    let second = begin(&other, &[("data", &image)], 2).await;
    assert!(second.disk_base("data").unwrap().has_overlay);
    assert_eq!(read_map(&second, "data", MapLayer::Overlay).await.unwrap().len(), 5 * MIB / 4096);
    assert_eq!(send(&second, "data", &image).await, 5 * MIB / 4096 + 1);
    let point = second.prepare(&[]).await.unwrap().commit().await.unwrap();
    assert_eq!(restore(&other, &point, "data").await.unwrap(), image);

    // The first wakes up: it can never commit.
    send(&late, "data", &image).await;
    let error = late.prepare(&[]).await.unwrap().commit().await.unwrap_err();
    assert!(matches!(error, VaultError::Aborted { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_decides() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let request = request(&[("data", &image)], 1);
    let Begun::Open(backup) = bed.vault.begin(request.clone()).await.unwrap() else { panic!() };
    send(&backup, "data", &image).await;
    let prepared = backup.prepare(&[]).await.unwrap();
    let point = prepared.commit().await.unwrap();
    assert_eq!(prepared.commit().await.unwrap(), point, "a repeated commit is the same");
    let outcome = bed.vault.conclude(MACHINE, point.seq, "too late").await.unwrap();
    assert_eq!(outcome, Outcome::Point(point.clone()));
    assert!(bed.vault.unconcluded(MACHINE).await.unwrap().is_empty());
    let Begun::AlreadyCommitted(found) = bed.vault.begin(request).await.unwrap() else { panic!() };
    assert_eq!(found, point);

    let open = begin(&bed.vault, &[("data", &image)], 1).await;
    assert_eq!(bed.vault.unconcluded(MACHINE).await.unwrap().len(), 1);
    bed.vault.conclude(MACHINE, open.seq(), "given up").await.unwrap();
    assert!(bed.vault.unconcluded(MACHINE).await.unwrap().is_empty());
    assert_eq!(bed.vault.points(MACHINE).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_backup_is_refused() {
    let bed = Bed::new().await;
    let image = noise(1, 2 * MIB);
    let backup = begin(&bed.vault, &[("data", &image)], 1).await;
    send(&backup, "data", &image[..MIB]).await;
    let error = backup.prepare(&[]).await.unwrap_err();
    assert!(matches!(error, VaultError::NotCovered { first_block: 256, end_block: 512, .. }), "{error:?}");
    assert!(bed.vault.points(MACHINE).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_folders() {
    let bed = Bed::new().await;
    let other = holdfast_vault_engine::KeyFile::generate(&bed.dir.path().join("other.key")).unwrap();
    let store = || holdfast_vault_engine::store::directory(&bed.root()).unwrap();
    let open = holdfast_vault_engine::Vault::open(store(), &other).await.unwrap_err();
    assert!(matches!(open, VaultError::WrongKey));
    let create = holdfast_vault_engine::Vault::create(store(), &other).await.unwrap_err();
    assert!(matches!(create, VaultError::AlreadyExists));
    std::fs::create_dir(bed.dir.path().join("files")).unwrap();
    std::fs::write(bed.dir.path().join("files/x"), "x").unwrap();
    let files = holdfast_vault_engine::store::directory(&bed.dir.path().join("files")).unwrap();
    assert!(matches!(holdfast_vault_engine::Vault::create(files, &other).await, Err(VaultError::NotEmpty)));
}
