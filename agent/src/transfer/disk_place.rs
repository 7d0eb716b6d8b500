use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One thread at a time is on a disk, in all attempts together: one that hangs in the kernel stays, and the next would too.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskPlaces(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

/// Of the thread that is on the disk.
pub(super) type DiskPlace = OwnedSemaphorePermit;

impl DiskPlaces {
    /// Waits for the place on a disk (see [`SnapshotDisk::place`](crate::snapshot::SnapshotDisk)); `None` if it is not free in
    /// time.
    pub(super) async fn take(&self, disk: String, limit: Duration) -> Option<DiskPlace> {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(disk).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        tokio::time::timeout(limit, place.acquire_owned()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disk_has_one_place_for_all_attempts() {
        let (places, limit) = (DiskPlaces::default(), Duration::from_secs(300));
        let hanging = places.take("data 1 2".to_owned(), limit).await.unwrap();
        let other_attempt = places.clone();
        assert!(other_attempt.take("data 1 2".to_owned(), limit).await.is_none());
        let _other_device = other_attempt.take("data 1 3".to_owned(), limit).await.unwrap();
        drop(hanging);
        let _answered = other_attempt.take("data 1 2".to_owned(), limit).await.unwrap();
    }
}
