//! Writes whose answer says nothing, in an object store.

use std::sync::Arc;

use holdfast_vault_engine::{KeyFile, Storage, Vault, VaultError};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use uuid::Uuid;

use super::support::faulty::{Fault, Faulty};
use super::support::{Image, back_up, good_points, restore_disk};

const MIB: usize = 1 << 20;

fn key() -> (tempfile::TempDir, KeyFile) {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
    (dir, key)
}

async fn objects(store: &dyn ObjectStore) -> Vec<String> {
    let listed = store.list_with_delimiter(None).await.unwrap();
    let mut names: Vec<String> = listed.objects.iter().map(|object| object.location.to_string()).collect();
    names.extend(listed.common_prefixes.iter().map(ToString::to_string));
    names
}

/// Whatever is answered, a backup ends with one object per name, and none under another name.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_says_nothing_costs_no_backup() {
    for fault in [Fault::AnswerLost, Fault::Repeated, Fault::Stopped, Fault::Conflict] {
        let (_dir, key) = key();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let whole = Vault::create(Storage::over(Arc::clone(&store)), &key).await.unwrap();
        let machine = Uuid::new_v4();
        let first = Image::noise(1, MIB);
        back_up(&whole, machine, &[("sda", &first)]).await.unwrap();
        for prefix in ["open/", "seg/", "points/"] {
            let faulty = Faulty::over(Arc::clone(&store), fault, prefix, 0, 2);
            let vault = Vault::open(Storage::over(faulty), &key).await.unwrap();
            let image = Image::noise(2, MIB);
            let seqs = whole.point_seqs(machine).await.unwrap();
            let point = back_up(&vault, machine, &[("sda", &image)]).await;
            let point = point.unwrap_or_else(|error| panic!("{fault:?} {prefix}: {error:?}"));
            restore_disk(&whole, &point, "sda", &image).await;
            assert_eq!(point.seq, seqs.last().unwrap() + 1, "{fault:?} {prefix}: a name was given up");
            assert_eq!(good_points(&whole, machine).await.len(), seqs.len() + 1);
            assert!(whole.unconcluded(machine).await.unwrap().is_empty(), "{fault:?} {prefix}");
        }
    }
}

/// A server that is away for a moment, also when it is asked what became of a write.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_for_a_moment_costs_no_backup() {
    let (_dir, key) = key();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let whole = Vault::create(Storage::over(Arc::clone(&store)), &key).await.unwrap();
    let image = Image::noise(4, MIB);
    let unreadable = Faulty::over(Arc::clone(&store), Fault::Unreadable, "seg/", 0, 1);
    for faulty in [
        Faulty::over(Arc::clone(&store), Fault::Away, "open/", 0, 2),
        Faulty::over(Arc::clone(&store), Fault::Away, "seg/", 0, 2),
        Faulty::over(Arc::clone(&store), Fault::Away, "points/", 0, 2),
        Faulty::over(unreadable, Fault::Stopped, "seg/", 0, 1),
    ] {
        let vault = Vault::open(Storage::over(faulty), &key).await.unwrap();
        let point = back_up(&vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
        assert_eq!(point.seq, 1);
        restore_disk(&whole, &point, "sda", &image).await;
    }
}

/// What is there and is not ours stays, and whoever wanted the name hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_took_is_not_ours() {
    let (_dir, key) = key();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let whole = Vault::create(Storage::over(Arc::clone(&store)), &key).await.unwrap();
    for fault in [Fault::Stopped, Fault::Conflict] {
        let machine = Uuid::new_v4();
        let image = Image::noise(3, MIB);
        let faulty = Faulty::over(Arc::clone(&store), fault, "points/", 0, 1);
        let vault = Vault::open(Storage::over(faulty), &key).await.unwrap();
        let backup = super::support::begin(&vault, super::support::request(machine, &[("sda", &image)]))
            .await
            .unwrap();
        super::support::send_changes(&backup, "sda", &image).await.unwrap();
        let prepared = backup.prepare(&[("sda".to_owned(), image.size_bytes())]).await.unwrap();
        whole.conclude(machine, backup.seq(), "it seems dead").await.unwrap();
        let error = prepared.commit().await.unwrap_err();
        assert!(matches!(error, VaultError::Aborted { .. }), "{fault:?}: {error:?}");
        assert!(good_points(&whole, machine).await.is_empty());
    }
}

/// The end of patience: the write is an error, and no object is there under any name.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_takes_no_write_is_given_up() {
    let (_dir, key) = key();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    Vault::create(Storage::over(Arc::clone(&store)), &key).await.unwrap();
    let before = objects(store.as_ref()).await;
    let machine = Uuid::new_v4();
    for fault in [Fault::Stopped, Fault::Conflict] {
        let faulty = Faulty::over(Arc::clone(&store), fault, "open/", 0, usize::MAX);
        let storage = Storage::over(faulty).with_patience(std::time::Duration::from_millis(800));
        let vault = Vault::open(storage, &key).await.unwrap();
        let started = std::time::Instant::now();
        let error = back_up(&vault, machine, &[("sda", &Image::noise(4, 4096))]).await.unwrap_err();
        assert!(matches!(error, VaultError::Storage { .. }), "{error:?}");
        assert!(error.is_retryable());
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    }
    assert_eq!(objects(store.as_ref()).await, before);
}

/// Where a name can be taken twice no vault is made, and nothing is left.
#[tokio::test]
async fn a_server_that_ignores_the_condition_is_refused() {
    let (_dir, key) = key();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let careless = Faulty::over(Arc::clone(&store), Fault::Overwritten, "", 0, usize::MAX);
    let error = Vault::create(Storage::over(careless), &key).await.unwrap_err();
    assert!(matches!(error, VaultError::CreatesTwice), "{error:?}");
    assert!(error.next_step().unwrap().contains("conditional writes"));
    assert!(objects(store.as_ref()).await.is_empty());
    // What a try that was killed left does not stop the next one, nor does the mark of a folder.
    store.put(&Path::from(format!("probe/{}", Uuid::new_v4())), "x".into()).await.unwrap();
    Vault::create(Storage::over(Arc::clone(&store)), &key).await.unwrap();
    let error = Vault::create(Storage::over(store), &key).await.unwrap_err();
    assert!(matches!(error, VaultError::AlreadyExists), "{error:?}");
}
