use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, error, warn};

use crate::store::StoreError;

/// When passes are made.
pub(super) struct Turns {
    pub(super) period: Duration,
    /// A pass that takes longer is cut off: a database that vanished answers nothing. `None` of what reads the vault, which takes its
    /// time.
    pub(super) limit: Option<Duration>,
    /// What makes a pass come at once.
    pub(super) woken: Option<watch::Receiver<()>>,
    pub(super) shutdown: CancellationToken,
}

/// Makes passes until the shutdown. Whatever becomes of one, also a panic, the next one comes.
pub(super) async fn repeat<F>(mut turns: Turns, pass: impl Fn() -> F)
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    loop {
        one(pass(), turns.limit).await;
        let woken = async {
            let changed = match &mut turns.woken {
                Some(woken) => woken.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(turns.period) => {}
            () = woken => {}
            () = turns.shutdown.cancelled() => return,
        }
    }
}

async fn one(pass: impl Future<Output = Result<(), StoreError>> + Send + 'static, limit: Option<Duration>) {
    // A task of its own: a panic ends that alone.
    let mut task = tokio::spawn(pass.instrument(Span::current()));
    let ended = match limit {
        None => (&mut task).await,
        Some(limit) => match tokio::time::timeout(limit, &mut task).await {
            Ok(ended) => ended,
            Err(_) => {
                warn!(?limit, "pass cut off: it takes too long; the next one tries again");
                task.abort();
                // Two at once would get into each other's way.
                let _ = task.await;
                return;
            }
        },
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(error = &error as &dyn std::error::Error, "pass failed; the next one tries again");
        }
        Err(panic) => {
            error!(error = &panic as &dyn std::error::Error, "pass panicked; the next one tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn whatever_becomes_of_a_pass_the_next_one_comes() {
        let (shutdown, count) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let turns = Turns {
            period: Duration::from_millis(1),
            limit: Some(Duration::from_millis(20)),
            woken: None,
            shutdown: shutdown.clone(),
        };
        let done = Arc::clone(&count);
        let pass = move || {
            let (count, shutdown) = (Arc::clone(&count), shutdown.clone());
            async move {
                match count.fetch_add(1, Ordering::Relaxed) {
                    0 => panic!("on purpose"),
                    1 => std::future::pending().await,
                    2 => Err(StoreError::Cancelling),
                    _ => {
                        shutdown.cancel();
                        Ok(())
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), repeat(turns, pass)).await.unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 4);
    }
}
