//! How much of a storage's time verification takes. Time is that of the test.

use std::sync::Arc;
use std::time::Duration;

use holdfast_vault_engine::{KeyFile, Storage, Vault, VerifyDepth, VerifyPace, VerifyReport, VerifyScope};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::time::Instant;
use uuid::Uuid;

use super::support::agent::push_blocks;
use super::support::paced::Paced;
use super::support::slow::{ANSWER, Slow};
use super::support::{Image, begin, finish, request};

const SEGMENTS: usize = 24;

/// By a gateway that has nothing in memory.
async fn verify(
    objects: &Arc<dyn ObjectStore>,
    key: &KeyFile,
    depth: VerifyDepth,
    pace: VerifyPace,
) -> (VerifyReport, Duration) {
    let store = Paced::over(Arc::clone(objects), Arc::new(Slow::default()));
    let vault = Vault::open(Storage::over(store), key).await.unwrap();
    let start = Instant::now();
    let report = vault.verify(VerifyScope::Vault, depth, pace, |_| {}).await.unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    (report, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_gentle_one_leaves_the_storage_three_quarters_of_the_time() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (key, image) = (KeyFile::new(), Image::noise(1, SEGMENTS * 4096));
    let vault = Vault::create(Storage::over(Arc::clone(&objects)), &key).await.unwrap();
    let backup = begin(&vault, request(Uuid::new_v4(), &[("sda", &image)])).await.unwrap();
    for block in 0..SEGMENTS {
        push_blocks(&backup, "sda", &image, &[block]).await.unwrap();
        backup.flush().await.unwrap();
    }
    finish(&backup, &[("sda", &image)]).await.unwrap();

    let (_, structure) = verify(&objects, &key, VerifyDepth::Structure, VerifyPace::Full).await;
    let (_, full) = verify(&objects, &key, VerifyDepth::ReadData, VerifyPace::Full).await;
    let (report, gentle) = verify(&objects, &key, VerifyDepth::ReadData, VerifyPace::Gentle).await;
    assert!(report.read_segments >= SEGMENTS as u64, "{report:?}");
    // Each is so small that it is read at once.
    let reading = ANSWER * u32::try_from(report.read_segments).unwrap();
    let (full, gentle) = (full - structure, gentle - structure);
    assert!(gentle >= reading * 4, "{gentle:?} for {reading:?} of reading");
    assert!(full < reading, "{full:?}: one after the other");
}
