//! What a point says of itself, and that one backup has one point.

use holdfast_vault_engine::{PointStatus, VaultError};
use uuid::Uuid;

use super::support::agent::push_blocks;
use super::support::{Image, TestVault, back_up, begin, good_points, request, restore_disk, send_changes};

const MIB: usize = 1 << 20;

/// Bytes of the objects that `wanted` picks.
fn stored(test: &TestVault, wanted: impl Fn(&str) -> bool) -> u64 {
    let names = test.objects().into_iter().filter(|name| wanted(name));
    names.map(|name| std::fs::metadata(test.path.join(name)).unwrap().len()).sum()
}

/// The bytes that disks stored are those of the point's objects, to the byte: also of what was taken over.
#[tokio::test(flavor = "multi_thread")]
async fn sizes_add_up() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let (one, two) = (Image::noise(310, MIB), Image::noise(311, MIB / 2));
    let disks = [("one", &one), ("two", &two)];
    let interrupted = begin(&test.vault, request(machine, &disks)).await.unwrap();
    push_blocks(&interrupted, "one", &one, &(0..100).collect::<Vec<_>>()).await.unwrap();
    interrupted.flush().await.unwrap();

    let backup = begin(&test.vault, request(machine, &disks)).await.unwrap();
    for (name, image) in disks {
        send_changes(&backup, name, image).await.unwrap();
    }
    let read = [("two".to_owned(), 22), ("one".to_owned(), 11)];
    let point = backup.prepare(&read).await.unwrap().commit().await.unwrap();
    let sizes =
        |key: fn(&holdfast_vault_engine::PointDisk) -> u64| point.disks.iter().map(key).collect::<Vec<_>>();
    assert_eq!(sizes(|disk| disk.read_bytes), [11, 22]);
    assert_eq!(sizes(|disk| disk.sent_bytes), [one.size_bytes(), two.size_bytes()]);
    assert_eq!(sizes(|disk| disk.changed_bytes), [one.size_bytes(), two.size_bytes()]);
    let number = format!("{:020}", point.seq);
    let objects = stored(&test, |name| {
        name.starts_with("seg/") || (name.ends_with(&number) && !name.starts_with("keys/"))
    });
    assert_eq!(sizes(|disk| disk.stored_bytes).iter().sum::<u64>(), objects);
    restore_disk(&test.vault, &point, "one", &one).await;

    let before = stored(&test, |_| true);
    let unchanged = back_up(&test.vault, machine, &disks).await.unwrap();
    let stored_bytes: u64 = unchanged.disks.iter().map(|disk| disk.stored_bytes).sum();
    assert_eq!(stored_bytes, stored(&test, |_| true) - before);
    assert!(stored_bytes > 0);
}

/// Each disk has its cells, and its share by them of what is stored besides: also of cells that were taken over.
#[tokio::test(flavor = "multi_thread")]
async fn disks_share_what_is_stored_by_their_cells() {
    let (one, two) = (Image::noise(313, 4096), Image::noise(314, 32 * 4096));
    let disks = [("one", &one), ("two", &two)];
    // Sealed, each cell is 16 bytes longer.
    let cells = disks.map(|(_, image)| image.size_bytes() + 16);
    for interrupted in [false, true] {
        let test = TestVault::new().await;
        let machine = Uuid::new_v4();
        let send_all = async || {
            let backup = begin(&test.vault, request(machine, &disks)).await.unwrap();
            for (name, image) in disks {
                send_changes(&backup, name, image).await.unwrap();
            }
            backup.flush().await.unwrap();
            backup
        };
        let mut backup = send_all().await;
        if interrupted {
            backup = send_all().await;
        }
        let point = backup.prepare(&[]).await.unwrap().commit().await.unwrap();
        let number = format!("{:020}", point.seq);
        let total = stored(&test, |name| {
            name.starts_with("seg/") || (name.ends_with(&number) && !name.starts_with("keys/"))
        });
        let metadata = total - cells[0] - cells[1];
        let second = cells[1] + metadata * cells[1] / (cells[0] + cells[1]);
        let shares: Vec<u64> = point.disks.iter().map(|disk| disk.stored_bytes).collect();
        assert_eq!(shares, [total - second, second], "interrupted: {interrupted}");
    }
}

/// Of two that were prepared for one backup, one becomes its point, and committing that one again is no harm.
#[tokio::test(flavor = "multi_thread")]
async fn one_backup_has_one_point() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(312, MIB / 2);
    let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&backup, "sda", &image).await.unwrap();
    let (first, second) = (backup.prepare(&[]).await.unwrap(), backup.prepare(&[]).await.unwrap());
    assert_ne!(first.point().id, second.point().id);
    assert!(backup.disk_base("sda").unwrap().has_overlay);
    let point = first.commit().await.unwrap();
    assert_eq!(point, *first.point());
    assert!(!backup.disk_base("sda").unwrap().has_overlay, "nobody asks for what was received any more");
    match second.commit().await {
        Err(VaultError::Aborted { seq, .. }) => assert_eq!(seq, backup.seq()),
        other => panic!("{other:?}"),
    }
    assert_eq!(first.commit().await.unwrap(), point);
    assert_eq!(good_points(&test.vault, machine).await, std::slice::from_ref(&point));
    restore_disk(&test.vault, &point, "sda", &image).await;
}

/// A point that was exchanged for one of another life under its number: its successor knows it by its hash.
#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_its_successor_does_not_know_is_damaged() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(313, MIB / 4);
    let other = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let name = format!("points/{machine}/{:020}", other.seq);
    let bytes = std::fs::read(test.path.join(&name)).unwrap();
    for object in test.objects().iter().filter(|object| object.contains(&machine.to_string())) {
        std::fs::remove_file(test.path.join(object)).unwrap();
    }
    let vault = test.reopen().await.unwrap();
    let first = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    assert_eq!(first.seq, other.seq);
    image.change(314, 3);
    let second = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    assert_eq!(good_points(&vault, machine).await, [first, second.clone()]);
    std::fs::write(test.path.join(&name), bytes).unwrap();
    let listed = test.reopen().await.unwrap().points(machine).await.unwrap();
    let [PointStatus::Damaged { seq, error }, PointStatus::Ok(newest)] = &*listed else {
        panic!("{listed:?}")
    };
    assert_eq!((*seq, newest), (other.seq, &second));
    assert!(matches!(error, VaultError::Mismatch { object, .. } if *object == name), "{error:?}");
}

/// A delta that is only a little smaller than it has to be to stay on top does so; with a little more it is merged.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_decides() {
    let test = TestVault::new().await;
    // 64 blocks in two cells: some 530 bytes of pages, so that a quarter of them is six blocks of 20.
    for (changed, depth) in [(1, 2), (6, 2), (7, 1), (20, 1)] {
        let machine = Uuid::new_v4();
        let mut image = Image::noise(3, 64 * 4096);
        back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        for block in 0..changed {
            image.0[block * 3 * 4096] ^= 1;
        }
        let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        assert_eq!(point.disks[0].stack.len(), depth, "{changed} blocks");
        restore_disk(&test.vault, &point, "sda", &image).await;
    }
}
