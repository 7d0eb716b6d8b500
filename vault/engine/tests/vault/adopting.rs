//! Taking over what an interrupted backup stored, from a storage that takes its time. Time is that of the test.

use std::sync::Arc;
use std::time::Duration;

use holdfast_vault_engine::{KeyFile, Storage, Vault};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::time::Instant;
use uuid::Uuid;

use super::support::agent::{changed_blocks, push_blocks};
use super::support::faulty::{Fault, Faulty};
use super::support::paced::{Pace, Paced};
use super::support::slow::{ANSWER, Slow};
use super::support::{Image, begin, finish, request, restore_disk};

/// Each takes two requests: such a small one comes whole, and its table after it.
const SEGMENTS: usize = 48;
/// When agents give an open transfer up.
const AGENTS_WAIT: Duration = Duration::from_secs(300);

/// A vault in which a backup of a machine was interrupted when all of its disk was stored, a segment for each block.
struct Interrupted {
    objects: Arc<dyn ObjectStore>,
    key: KeyFile,
    machine: Uuid,
    image: Image,
}

impl Interrupted {
    async fn new() -> Self {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (key, machine) = (KeyFile::new(), Uuid::new_v4());
        let image = Image::noise(1, SEGMENTS * 4096);
        let vault = Vault::create(Storage::over(Arc::clone(&objects)), &key).await.unwrap();
        let backup = begin(&vault, request(machine, &[("sda", &image)])).await.unwrap();
        for block in 0..SEGMENTS {
            push_blocks(&backup, "sda", &image, &[block]).await.unwrap();
            backup.flush().await.unwrap();
        }
        Self { objects, key, machine, image }
    }

    async fn open(&self, store: Arc<dyn ObjectStore>) -> Vault {
        Vault::open(Storage::over(store), &self.key).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn many_segments_are_read_at_once() {
    let test = Interrupted::new().await;
    let slow = Arc::new(Slow::default());
    let pace: Arc<dyn Pace> = slow.clone();
    let vault = test.open(Paced::over(Arc::clone(&test.objects), pace)).await;
    let start = Instant::now();
    let backup = begin(&vault, request(test.machine, &[("sda", &test.image)])).await.unwrap();
    let took = start.elapsed();
    let most = slow.most();
    let one_by_one = ANSWER * 2 * u32::try_from(SEGMENTS).unwrap();
    assert!(most >= 8 && took < one_by_one / 4, "{most} requests at once, {took:?}");
    let again = changed_blocks(&backup, "sda", &test.image).await.unwrap();
    assert!(again.is_empty(), "{again:?} are not taken over");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_read_in_time_is_sent_again() {
    let test = Interrupted::new().await;
    let stuck = Faulty::over(Arc::clone(&test.objects), Fault::Stuck, "seg/", SEGMENTS, usize::MAX);
    let vault = test.open(stuck.clone()).await;
    let began = begin(&vault, request(test.machine, &[("sda", &test.image)]));
    let backup = tokio::time::timeout(AGENTS_WAIT, began).await.expect("it waits for all").unwrap();
    stuck.heal();
    let again = changed_blocks(&backup, "sda", &test.image).await.unwrap().len();
    assert!(again > 0 && again < SEGMENTS, "{again} blocks are sent again");
    let point = finish(&backup, &[("sda", &test.image)]).await.unwrap();
    restore_disk(&vault, &point, "sda", &test.image).await;
}
