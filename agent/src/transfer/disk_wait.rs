use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Since when a scan waits for its disk, if it does. A read that hangs in the kernel cannot be ended, only left alone.
#[derive(Debug, Default)]
pub(super) struct DiskWait(Mutex<Option<Instant>>);

impl DiskWait {
    /// Does what may hang on the disk.
    pub(super) fn during<T>(&self, ask: impl FnOnce() -> T) -> T {
        *self.lock() = Some(Instant::now());
        let answer = ask();
        *self.lock() = None;
        answer
    }

    /// Returns when the disk has not answered for so long, or up to twice that.
    pub(super) async fn longer_than(&self, limit: Duration) {
        loop {
            let waited = self.lock().map(|since| since.elapsed()).unwrap_or_default();
            if waited >= limit {
                return;
            }
            tokio::time::sleep(limit - waited).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
