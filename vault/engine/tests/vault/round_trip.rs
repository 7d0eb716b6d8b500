//! What was backed up comes back, byte for byte, from every point.

use std::os::unix::fs::PermissionsExt;

use holdfast_vault_engine::{BLOCK_SIZE, KeyFile, MapLayer, Storage, Vault, VaultError};
use uuid::Uuid;

use super::support::agent::{changed_blocks, read_map};
use super::support::{Image, TestVault, back_up, begin, good_points, request, restore_disk, send_changes};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_change() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(1, 6 * MIB + 1234);
    let mut history = vec![image.clone()];
    // Changed, unchanged, grown in the last block, grown by blocks, shrunk, grown again over what was cut, shrunk
    // to a single byte, to nothing, and back.
    image.change(2, 40);
    history.push(image.clone());
    history.push(image.clone());
    for size in [6 * MIB + 3000, 8 * MIB + 1, 3 * MIB + 77, 9 * MIB, 1, 0, 2 * MIB + 5] {
        image.resize(size);
        history.push(image.clone());
    }
    image.change(3, 10);
    history.push(image.clone());
    for truth in &history {
        let point = back_up(&test.vault, machine, &[("sda", truth)]).await.unwrap();
        restore_disk(&test.vault, &point, "sda", truth).await;
    }
    let vault = test.reopen().await.unwrap();
    let points = good_points(&vault, machine).await;
    assert_eq!(points.len(), history.len());
    for (point, truth) in points.iter().zip(&history) {
        assert_eq!(point.disks[0].size_bytes, truth.size_bytes());
        restore_disk(&vault, point, "sda", truth).await;
    }
    for pair in points.windows(2) {
        let previous = pair[1].previous.as_ref().unwrap();
        assert_eq!((previous.seq, previous.hash), (pair[0].seq, pair[0].hash));
    }
}

/// What was cut off by shrinking must be zeros when the disk grows again, although an old delta still has it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_does_not_come_back() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let full = Image::noise(4, MIB);
    back_up(&test.vault, machine, &[("sda", &full)]).await.unwrap();
    let mut image = full.clone();
    image.resize(MIB / 2 + 100);
    back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    image.resize(2 * MIB);
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_disks_holes_and_statistics() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let empty_vault = test.size();
    let mut system = Image::mixed(5, 3 * MIB + 1);
    let data = Image::noise(6, 2 * MIB);
    let hole = Image::zeros(64 * MIB + 17);
    let disks = [("system", &system), ("data", &data), ("hole", &hole)];
    let first = back_up(&test.vault, machine, &disks).await.unwrap();
    for (name, truth) in disks {
        restore_disk(&test.vault, &first, name, truth).await;
    }
    let by_name = |name| first.disks.iter().find(|disk| disk.name == name).unwrap();
    assert_eq!(by_name("data").sent_bytes, 2 * MIB as u64);
    assert_eq!(by_name("data").changed_bytes, 2 * MIB as u64);
    assert_eq!(by_name("data").read_bytes, 2 * MIB as u64);
    assert_eq!(by_name("hole").sent_bytes, 0);
    let stored: u64 = first.disks.iter().map(|disk| disk.stored_bytes).sum();
    let growth = test.size() - empty_vault;
    assert_eq!(stored, growth, "what disks stored is what the vault grew by");

    let before = test.size();
    let old = system.clone();
    system.change(7, 5);
    let changed = system.differing(&old).len();
    let disks = [("system", &system), ("data", &data), ("hole", &hole)];
    let second = back_up(&test.vault, machine, &disks).await.unwrap();
    let by_name = |name| second.disks.iter().find(|disk| disk.name == name).unwrap();
    assert_eq!(by_name("system").changed_bytes, (changed * BLOCK_SIZE) as u64);
    assert!(by_name("system").sent_bytes <= (changed * BLOCK_SIZE) as u64);
    assert_eq!((by_name("data").changed_bytes, by_name("data").sent_bytes), (0, 0));
    let stored: u64 = second.disks.iter().map(|disk| disk.stored_bytes).sum();
    let growth = test.size() - before;
    assert_eq!(stored, growth, "what disks stored is what the vault grew by");
    assert!(growth <= (changed * BLOCK_SIZE + 64 * 1024) as u64, "{growth} bytes for {changed} blocks");
}

/// A small incremental is one segment and one point, an unchanged one no segment at all.
#[tokio::test(flavor = "multi_thread")]
async fn small_backups_are_few_objects() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(8, MIB);
    back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let segments = |test: &TestVault| test.objects().iter().filter(|name| name.starts_with("seg/")).count();
    let before = segments(&test);
    image.change(9, 3);
    back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    assert_eq!(segments(&test), before + 1);
    let unchanged = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    assert_eq!(segments(&test), before + 1);
    assert_eq!(unchanged.disks[0].changed_bytes, 0);
    restore_disk(&test.vault, &unchanged, "sda", &image).await;
}

/// Several segments, pages of several hundred thousand hashes, streams in parallel.
#[tokio::test(flavor = "multi_thread")]
async fn several_segments_by_several_streams() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::noise(10, 80 * MIB + 4097);
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let changed = changed_blocks(&backup, "sda", &image).await.unwrap();
    let image = std::sync::Arc::new(image);
    let streams = changed.chunks(changed.len().div_ceil(4)).map(|part| {
        let (backup, image, part) = (backup.clone(), std::sync::Arc::clone(&image), part.to_vec());
        tokio::spawn(async move {
            super::support::agent::push_blocks(&backup, "sda", &image, &part).await.unwrap()
        })
    });
    let mut receipts = Vec::new();
    for stream in streams.collect::<Vec<_>>() {
        receipts.extend(stream.await.unwrap());
    }
    backup.flush().await.unwrap();
    for receipt in receipts {
        receipt.durable().await.unwrap();
    }
    let point = backup.prepare(&[("sda".to_owned(), 1)]).await.unwrap().commit().await.unwrap();
    assert!(test.objects().iter().filter(|name| name.starts_with("seg/")).count() >= 3);
    let vault = test.reopen().await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
}

/// The maps are the hashes of the true content: merged, overlay, and after a commit.
#[tokio::test(flavor = "multi_thread")]
async fn maps_are_the_hashes_of_the_content() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(11, 4 * MIB + 99);
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let old = image.clone();
    image.change(12, 50);
    image.resize(5 * MIB);
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    let base = backup.disk_base("sda").unwrap();
    assert_eq!(base.base_size_bytes, old.size_bytes());
    assert_eq!(base.map_id, first.map_id("sda"));
    assert!(base.map_id.is_some() && !base.has_overlay);
    let hasher = holdfast_vault_engine::BlockHasher::new(&base.block_hash_key);
    let expected = |image: &Image, blocks: &mut dyn Iterator<Item = usize>| {
        blocks
            .map(|block| (block as u64, hasher.hash(&image.block(block))))
            .collect::<std::collections::HashMap<_, _>>()
    };
    assert_eq!(
        read_map(&backup, "sda", MapLayer::Merged).await.unwrap(),
        expected(&old, &mut (0..old.blocks()))
    );
    assert!(read_map(&backup, "sda", MapLayer::Overlay).await.unwrap().is_empty());
    let changed = changed_blocks(&backup, "sda", &image).await.unwrap();
    assert_eq!(changed, image.differing(&old));
    send_changes(&backup, "sda", &image).await.unwrap();
    backup.flush().await.unwrap();
    assert!(backup.disk_base("sda").unwrap().has_overlay);
    let overlay = read_map(&backup, "sda", MapLayer::Overlay).await.unwrap();
    assert_eq!(overlay, expected(&image, &mut changed.iter().copied()));
    assert_eq!(
        read_map(&backup, "sda", MapLayer::Merged).await.unwrap(),
        expected(&image, &mut (0..image.blocks()))
    );
    let second = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
    assert_ne!(second.map_id("sda"), first.map_id("sda"));
    assert_eq!(second.map_id("other"), None);
    let third = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert_eq!(
        read_map(&third, "sda", MapLayer::Merged).await.unwrap(),
        expected(&image, &mut (0..image.blocks()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_joins_and_one_that_leaves() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let (one, two) = (Image::mixed(13, MIB), Image::mixed(14, MIB + 5));
    back_up(&test.vault, machine, &[("one", &one)]).await.unwrap();
    let both = back_up(&test.vault, machine, &[("one", &one), ("two", &two)]).await.unwrap();
    let last = back_up(&test.vault, machine, &[("two", &two)]).await.unwrap();
    restore_disk(&test.vault, &both, "one", &one).await;
    restore_disk(&test.vault, &both, "two", &two).await;
    restore_disk(&test.vault, &last, "two", &two).await;
    assert!(matches!(test.vault.open_disk(&last, "one").await, Err(VaultError::NoSuchDisk { .. })));
}

#[tokio::test]
async fn vaults_and_keys() {
    let test = TestVault::new().await;
    assert_eq!(test.reopen().await.unwrap().id(), test.vault.id());
    let again = Vault::create(Storage::directory(&test.path).unwrap(), &test.key).await;
    assert!(matches!(again, Err(VaultError::AlreadyExists)));
    let other = KeyFile::generate(&test.key_path.with_file_name("other.key")).unwrap();
    let wrong = Vault::open(Storage::directory(&test.path).unwrap(), &other).await;
    assert!(matches!(wrong, Err(VaultError::WrongKey { .. })), "{wrong:?}");
    match KeyFile::generate(&test.key_path) {
        Err(VaultError::KeyFile { operation: "created", source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists);
        }
        other => panic!("a key file is never replaced: {other:?}"),
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&test.key_path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    KeyFile::load(&test.key_path).unwrap();
    let allow = |mode| std::fs::set_permissions(&test.key_path, PermissionsExt::from_mode(mode)).unwrap();
    for exposed in [0o640, 0o604, 0o610, 0o601, 0o620, 0o602, 0o644] {
        allow(exposed);
        match KeyFile::load(&test.key_path) {
            Err(VaultError::ExposedKeyFile { mode, .. }) => assert_eq!(mode, exposed),
            other => panic!("{exposed:o}: {other:?}"),
        }
    }
    for private in [0o400, 0o700, 0o600] {
        allow(private);
        KeyFile::load(&test.key_path).unwrap();
    }
    std::fs::write(&test.key_path, "not a key").unwrap();
    assert!(matches!(KeyFile::load(&test.key_path), Err(VaultError::BadKeyFile { .. })));
    let nowhere = tempfile::tempdir().unwrap();
    let missing = Vault::open(Storage::directory(nowhere.path()).unwrap(), &test.key).await;
    assert!(matches!(missing, Err(VaultError::NotAVault)));
}
