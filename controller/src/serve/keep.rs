use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::error;

const PAUSE: Duration = Duration::from_secs(30);

/// Runs what runs for as long as the controller does. If it panics it is begun again, also to end in good order: without it the
/// controller would look well and lack something.
pub(super) async fn keep<F>(name: &'static str, shutdown: CancellationToken, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Err(panic) = tokio::spawn(begin()).await {
        error!(task = name, error = &panic as &dyn std::error::Error, "a task panicked; it is begun again");
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.cancelled() => {
                // The last time: whatever it does now, the controller stops.
                let _ = tokio::spawn(begin()).await;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_panics_is_begun_again() {
        let (begun, shutdown) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        shutdown.cancel();
        let counted = Arc::clone(&begun);
        keep("test", shutdown, move || {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(number > 0, "on purpose") }
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }
}
