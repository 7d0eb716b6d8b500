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
            *paid_until = free_at + self.cost(amount);
            free_at
        };
        tokio::time::sleep_until(free_at).await;
    }

    /// What was passed as `paid` is `due`. If that is more, those who come next wait for it.
    pub(super) fn correct(&self, paid: u64, due: u64) {
        let mut paid_until = self.paid_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let corrected = (*paid_until + self.cost(due)).checked_sub(self.cost(paid));
        *paid_until = corrected.unwrap_or(*paid_until);
    }

    fn cost(&self, amount: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        Duration::from_secs_f64(amount.min(MOST_AT_ONCE) as f64 / self.per_second)
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
        // What did not come costs nothing, and what came beyond it is paid for by the next.
        for (paid, due, expected) in [(100, 0, 1.0), (0, 300, 3.0)] {
            let start = Instant::now();
            pace.pass(paid).await;
            pace.correct(paid, due);
            pace.pass(0).await;
            let seconds = start.elapsed().as_secs_f64();
            assert!((expected - 0.01..expected + 0.01).contains(&seconds), "{seconds}");
        }
    }
}
