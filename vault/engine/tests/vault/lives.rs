//! A vault that was put back from a copy and went on has objects of two lives under the same names. Names, keys and sealing fit;
//! only commitments tell them apart.

use holdfast_vault_engine::{PointStatus, chain};
use uuid::Uuid;

use super::support::agent::changed_blocks;
use super::support::{Image, TestVault, back_up, begin, good_points, request, restore, send_changes};

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_life() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::mixed(110, 400_000);
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let kept = test.objects();
    image.change(111, 30);
    back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let other_life: Vec<(String, Vec<u8>)> = test
        .objects()
        .into_iter()
        .filter(|name| !kept.contains(name))
        .map(|name| (name.clone(), std::fs::read(test.path.join(&name)).unwrap()))
        .collect();
    for (name, _) in &other_life {
        std::fs::remove_file(test.path.join(name)).unwrap();
    }
    // This life: another second point under the same number, and a third on top of it.
    let vault = test.reopen().await.unwrap();
    let mut truth = vec![(first.id, image.clone())];
    truth[0].1 = restore(&vault, &first, "sda").await.unwrap();
    image = truth[0].1.clone();
    for round in 0..2 {
        image.change(112 + round, 30);
        let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
        truth.push((point.id, image.clone()));
    }
    let mut mixed = 0;
    for (name, bytes) in &other_life {
        let path = test.path.join(name);
        let Ok(good) = std::fs::read(&path) else { continue };
        mixed += 1;
        std::fs::write(&path, bytes).unwrap();
        let vault = test.reopen().await.unwrap();
        let (mut errors, mut whole) = (Vec::new(), 0);
        for status in vault.points(machine).await.unwrap() {
            match status {
                PointStatus::Damaged { error, .. } => errors.push(chain(&error)),
                PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => {
                    match restore(&vault, &point, "sda").await {
                        Err(error) => errors.push(chain(&error)),
                        Ok(restored) => {
                            let (_, content) = truth
                                .iter()
                                .find(|(id, _)| *id == point.id)
                                .expect("a point of another life");
                            assert!(restored == *content, "WRONG BYTES in point {}", point.seq);
                            whole += 1;
                        }
                    }
                }
            }
        }
        if name.starts_with("open/") {
            assert_eq!(whole, truth.len());
        } else {
            assert!(!errors.is_empty(), "{name} of another life was not noticed");
        }
        std::fs::write(&path, good).unwrap();
    }
    assert!(mixed >= 3, "the two lives share no names");
}

/// Puts a vault back to the state it had before `live`, lets it live again, and then exchanges each object that both lives
/// wrote for the one of the first life. Answers the names of those, while `check` sees each exchange.
async fn live_twice<L, C>(test: &TestVault, live: L, check: C) -> Vec<String>
where
    L: AsyncFn(u64),
    C: AsyncFn(&str),
{
    let kept = test.objects();
    live(1).await;
    let written: Vec<String> = test.objects().into_iter().filter(|name| !kept.contains(name)).collect();
    let first: Vec<Vec<u8>> =
        written.iter().map(|name| std::fs::read(test.path.join(name)).unwrap()).collect();
    for name in &written {
        std::fs::remove_file(test.path.join(name)).unwrap();
    }
    live(2).await;
    let mut exchanged = Vec::new();
    for (name, bytes) in written.iter().zip(first) {
        let path = test.path.join(name);
        let Ok(good) = std::fs::read(&path) else { continue };
        std::fs::write(&path, bytes).unwrap();
        check(name).await;
        std::fs::write(&path, good).unwrap();
        exchanged.push(name.clone());
    }
    exchanged
}

/// The data of a point lies in a segment that an earlier, interrupted backup wrote: only the delta's word about the
/// segment's root tells that its cells are others.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_another_life_under_a_delta() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let content = |life| Image::noise(140 + life, 300_000);
    let live = async |life| {
        let vault = test.reopen().await.unwrap();
        let image = content(life);
        let interrupted = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
        send_changes(&interrupted, "sda", &image).await.unwrap();
        interrupted.flush().await.unwrap();
        drop(interrupted);
        back_up(&vault, machine, &[("sda", &image)]).await.unwrap();
    };
    let check = async |name: &str| {
        if !name.starts_with("seg/") {
            return;
        }
        let vault = test.reopen().await.unwrap();
        let point = good_points(&vault, machine).await.remove(0);
        match restore(&vault, &point, "sda").await {
            Ok(restored) if restored == content(2) => panic!("{name} makes no difference"),
            Ok(_) => panic!("WRONG BYTES: {name} of another life was taken"),
            Err(error) => assert!(error.is_damage(), "{}", chain(&error)),
        }
    };
    let exchanged = live_twice(&test, live, check).await;
    assert!(exchanged.iter().filter(|name| name.starts_with("seg/")).count() >= 2, "{exchanged:?}");
}

/// Pages of a delta that lie in another segment than its root: the root's word about their hashes is all there is for the
/// map that the next backup compares with.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_another_life_under_a_root() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    // One segment with the pages, filled by them; the root comes into the next.
    let content = |life| Image::noise(150 + life, 255 * 131_072);
    let live = async |life| {
        let vault = test.reopen().await.unwrap();
        back_up(&vault, machine, &[("sda", &content(life))]).await.unwrap();
    };
    let refused = std::cell::Cell::new(0);
    let check = async |name: &str| {
        if !name.starts_with("seg/") {
            return;
        }
        let vault = test.reopen().await.unwrap();
        let image = content(2);
        let unchanged = match begin(&vault, request(machine, &[("sda", &image)])).await {
            Ok(backup) if backup.disk_base("sda").unwrap().map_id.is_none() => Ok(true),
            Ok(backup) => changed_blocks(&backup, "sda", &image).await.map(|changed| changed.is_empty()),
            Err(error) => Err(error),
        };
        match unchanged {
            Ok(true) => {}
            Ok(false) => panic!("{name} of another life gave a wrong map"),
            Err(error) => {
                assert!(error.is_damage(), "{}", chain(&error));
                refused.set(refused.get() + 1);
            }
        }
    };
    let exchanged = live_twice(&test, live, check).await;
    let segments = exchanged.iter().filter(|name| name.starts_with("seg/")).count();
    assert_eq!(segments, 2, "pages and root share a segment: the size has to be chosen anew");
    assert!(refused.get() >= 1);
}
