use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Whatever a server says that it sends, nobody waits for more.
const MOST_AT_ONCE: u64 = 256 << 20;
/// A pause saves up no more than this.
const BURST: Duration = Duration::from_secs(1);

/// So much per second: who comes waits until those before are paid for.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    paid_until: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        Self { per_second: per_second as f64, paid_until: Mutex::new(Instant::now()) }
    }

    pub(super) async fn pass(&self, amount: u64) {
        let free_at = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let saved = Instant::now().checked_sub(BURST).unwrap_or(*paid_until);
            let free_at = (*paid_until).max(saved);
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let cost = Duration::from_secs_f64(amount.min(MOST_AT_ONCE) as f64 / self.per_second);
            *paid_until = free_at + cost;
            free_at
        };
        tokio::time::sleep_until(free_at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_passed_keeps_to_the_rate() {
        let pace = Pace::new(100);
        let start = Instant::now();
        for _ in 0..5 {
            pace.pass(100).await;
        }
        // The first goes at once; each later one when those before it are paid for.
        let seconds = start.elapsed().as_secs_f64();
        assert!((3.99..4.01).contains(&seconds), "{seconds}");
        // A long pause saves up one second's worth, not more.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..4 {
            pace.pass(100).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.99..2.01).contains(&seconds), "{seconds}");
    }
}
