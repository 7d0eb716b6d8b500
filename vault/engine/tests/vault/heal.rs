//! Backups into a vault that is damaged.

use holdfast_vault_engine::{BeginBackup, MapLayer, chain};
use uuid::Uuid;

use super::support::agent::read_map;
use super::support::anatomy::{Anatomist, Region};
use super::support::image::Random;
use super::support::{Image, TestVault, back_up, begin, finish, good_points, request, restore, send_changes};

/// Whatever is damaged, the next backup either says so or is whole; at the latest the one after it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_backup_is_whole_or_refused() {
    let mut random = Random(120);
    for attempt in 0..40 {
        let test = TestVault::new().await;
        let machine = Uuid::new_v4();
        let mut image = Image::mixed(121, 200_000);
        // Many extents.
        for block in (0..48).step_by(4) {
            image.0[block * 4096..][..4096].fill(0);
        }
        back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        // In some the second delta lies on the first, in some it is merged with it.
        image.change(122, if attempt / 8 % 2 == 0 { 1 } else { 10 });
        let base = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        let stack = &base.disks[0].stack;
        assert_eq!(stack.len(), if attempt / 8 % 2 == 0 { 2 } else { 1 });
        image.change(123, 10);
        let interrupted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
        send_changes(&interrupted, "sda", &image).await.unwrap();
        interrupted.flush().await.unwrap();
        drop(interrupted);

        let anatomist = Anatomist::new(&test.path, &test.key_path);
        let names: Vec<String> = test.objects().into_iter().filter(|name| name.contains('/')).collect();
        let name = &names[attempt % names.len()];
        if name.starts_with("keys/") {
            continue;
        }
        let path = test.path.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let regions = anatomist.regions(name, &bytes);
        let (region, range) = &regions[random.below(regions.len())];
        let at = range.start + random.below(range.len());
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(&path, bytes).unwrap();

        let vault = test.reopen().await.unwrap();
        let what = format!("byte {at} ({region:?}) of {name}");
        let mut made = Vec::new();
        for _ in 0..3 {
            image.change(124, 10);
            let begun = begin(&vault, request(machine, &[("sda", &image)])).await;
            let result = match begun {
                Ok(backup) => finish(&backup, &[("sda", &image)]).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(point) => made.push((point, image.clone())),
                Err(error) => assert!(error.is_damage(), "{what}: {}", chain(&error)),
            }
        }
        assert!(made.len() >= 2, "{what}: the vault does not heal");
        // A data cell of the base that is damaged is found by verifying, not by the next incremental; so is a segment that
        // holds none of the base's deltas.
        let data_only = *region == Region::DataCell
            || (name.starts_with(&format!("seg/{machine}/{:020}/", 1)) && stack.len() == 1);
        if !data_only {
            let vault = test.reopen().await.unwrap();
            for (point, content) in &made {
                let restored = restore(&vault, point, "sda").await;
                let restored = restored.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
                assert!(restored == *content, "WRONG BYTES after {what}");
            }
        }
    }
}

/// What the interrupted backup stored and is damaged now is not taken over: it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_segments_are_not_taken_over() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let image = Image::mixed(130, 300_000);
    let interrupted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
    send_changes(&interrupted, "sda", &image).await.unwrap();
    interrupted.flush().await.unwrap();
    drop(interrupted);
    let anatomist = Anatomist::new(&test.path, &test.key_path);
    let name = test.objects().into_iter().find(|name| name.starts_with("seg/")).unwrap();
    let mut bytes = std::fs::read(test.path.join(&name)).unwrap();
    let table =
        anatomist.regions(&name, &bytes).into_iter().find(|(region, _)| *region == Region::Table).unwrap().1;
    bytes[table.start + table.len() / 2] ^= 4;
    std::fs::write(test.path.join(&name), bytes).unwrap();
    let vault = test.reopen().await.unwrap();
    let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
    assert!(!backup.disk_base("sda").unwrap().has_overlay);
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    assert!(restore(&vault, &point, "sda").await.unwrap() == image);
    assert_eq!(good_points(&vault, machine).await.len(), 1);
}

/// Cells with data as well, once there is damage at all: a first backup that goes on does not read a disk's worth again.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_cells_of_a_leftover_heal_nothing() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let first = Image::noise(131, 1 << 20);
    let point = back_up(&test.vault, machine, &[("sda", &first)]).await.unwrap();
    let second = Image::noise(132, 1 << 20);
    let interrupted = begin(&test.vault, request(machine, &[("sda", &second)])).await.unwrap();
    send_changes(&interrupted, "sda", &second).await.unwrap();
    interrupted.flush().await.unwrap();
    let name = format!("seg/{machine}/{:020}/{:08}.0", interrupted.seq(), 0);
    drop(interrupted);
    let mut bytes = std::fs::read(test.path.join(&name)).unwrap();
    let cell = Anatomist::new(&test.path, &test.key_path)
        .regions(&name, &bytes)
        .into_iter()
        .filter(|(region, _)| *region == Region::DataCell)
        .nth(3)
        .unwrap()
        .1;
    bytes[cell.start + 100] ^= 4;
    std::fs::write(test.path.join(&name), bytes).unwrap();

    let vault = test.reopen().await.unwrap();
    let healing = BeginBackup { damaged: vec![point.seq], ..request(machine, &[("sda", &second)]) };
    let backup = begin(&vault, healing).await.unwrap();
    let overlay = read_map(&backup, "sda", MapLayer::Overlay).await.unwrap();
    assert_eq!(second.blocks() - overlay.len(), 32, "all but the blocks of that cell");
    let point = finish(&backup, &[("sda", &second)]).await.unwrap();
    assert!(restore(&vault, &point, "sda").await.unwrap() == second);
}

/// A segment that another machine stored must not be taken over: it is not this machine's disk.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_segments_are_not_taken_over() {
    let test = TestVault::new().await;
    let image = Image::mixed(160, 200_000);
    let mut names = Vec::new();
    let machines = [Uuid::new_v4(), Uuid::new_v4()];
    for machine in machines {
        let interrupted = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
        send_changes(&interrupted, "sda", &image).await.unwrap();
        interrupted.flush().await.unwrap();
        names.push(
            test.objects().into_iter().find(|name| name.starts_with(&format!("seg/{machine}"))).unwrap(),
        );
    }
    std::fs::copy(test.path.join(&names[1]), test.path.join(&names[0])).unwrap();
    let vault = test.reopen().await.unwrap();
    let backup = begin(&vault, request(machines[0], &[("sda", &image)])).await.unwrap();
    assert!(!backup.disk_base("sda").unwrap().has_overlay, "another machine's segment was taken over");
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    assert!(restore(&vault, &point, "sda").await.unwrap() == image);
}
