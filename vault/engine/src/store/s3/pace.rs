use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Whatever a server says that it sends, nobody waits for more.
const MOST_AT_ONCE: u64 = 256 << 20;
/// A pause saves up no more than this.
const BURST: Duration = Duration::from_secs(1);
/// Who waits looks again after this: what others paid for and did not use is paid back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// So much per second: who comes waits until those before are paid for, and pays when it is let pass. One that gives up before has paid
/// nothing.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    paid_until: Mutex<Instant>,
    /// Held by whoever is next; the others stand behind it in the order in which they came.
    turn: tokio::sync::Mutex<()>,
}

impl Pace {
    pub(super) fn new(per_second: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let per_second = per_second as f64;
        Self { per_second, paid_until: Mutex::new(Instant::now()), turn: tokio::sync::Mutex::new(()) }
    }

    pub(super) async fn pass(&self, amount: u64) {
        let _turn = self.turn.lock().await;
        while let Some(free_at) = self.try_pass(amount) {
            tokio::time::sleep_until(free_at.min(Instant::now() + LOOK_AGAIN)).await;
        }
    }

    /// When to try again, if others are to be paid for first.
    fn try_pass(&self, amount: u64) -> Option<Instant> {
        let mut paid_until = self.paid_until();
        if *paid_until > Instant::now() {
            return Some(*paid_until);
        }
        self.pay(&mut paid_until, amount);
        None
    }

    /// Passes without waiting: those who come next wait for it.
    fn charge(&self, amount: u64) {
        self.pay(&mut self.paid_until(), amount);
    }

    fn pay(&self, paid_until: &mut Instant, amount: u64) {
        let saved = Instant::now().checked_sub(BURST).unwrap_or(*paid_until);
        *paid_until = (*paid_until).max(saved) + self.cost(amount);
    }

    /// What was passed as `paid` is `due`. If that is more, those who come next wait for it.
    pub(super) fn correct(&self, paid: u64, due: u64) {
        let mut paid_until = self.paid_until();
        let corrected = (*paid_until + self.cost(due)).checked_sub(self.cost(paid));
        *paid_until = corrected.unwrap_or(*paid_until);
    }

    fn paid_until(&self) -> MutexGuard<'_, Instant> {
        self.paid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cost(&self, amount: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        Duration::from_secs_f64(amount.min(MOST_AT_ONCE) as f64 / self.per_second)
    }
}

/// How much a request moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// So little that it is let pass before what waits: others wait for its answer.
    Small,
    Large,
}

/// A [`Pace`] of bytes, on which what is small waits for no more than what is small, of which no more than half of all passes: nor does
/// what is large wait for it for ever. Nothing is given away: what is large waits for all.
#[derive(Debug)]
pub(super) struct Bandwidth {
    all: Pace,
    small: Pace,
}

impl Bandwidth {
    pub(super) fn new(per_second: u64) -> Self {
        Self { all: Pace::new(per_second), small: Pace::new(per_second.div_ceil(2)) }
    }

    pub(super) async fn pass(&self, size: Size, bytes: u64) {
        match size {
            Size::Large => self.all.pass(bytes).await,
            Size::Small => {
                self.small.pass(bytes).await;
                self.all.charge(bytes);
            }
        }
    }

    /// As [`Pace::correct`].
    pub(super) fn correct(&self, size: Size, paid: u64, due: u64) {
        self.all.correct(paid, due);
        if size == Size::Small {
            self.small.correct(paid, due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_has_paid_nothing() {
        let pace = Arc::new(Pace::new(100));
        pace.pass(100).await;
        let start = Instant::now();
        let waiting = [(); 5].map(|()| {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move { pace.pass(1000).await })
        });
        tokio::task::yield_now().await;
        for waiter in &waiting {
            waiter.abort();
        }
        pace.pass(100).await;
        let seconds = start.elapsed().as_secs_f64();
        assert!((0.99..1.01).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_waits_for_no_segment_and_is_paid_for() {
        let pace = Arc::new(Bandwidth::new(100));
        pace.pass(Size::Large, 1000).await;
        let start = Instant::now();
        let waiting = {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move { pace.pass(Size::Large, 1000).await })
        };
        tokio::task::yield_now().await;
        for _ in 0..3 {
            pace.pass(Size::Small, 100).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((3.99..4.01).contains(&seconds), "only of what is small no more than half passes: {seconds}");
        waiting.await.unwrap();
        let seconds = start.elapsed().as_secs_f64();
        assert!((12.99..13.01).contains(&seconds), "1000 and 3 times 100 are to be paid for: {seconds}");
    }
}
