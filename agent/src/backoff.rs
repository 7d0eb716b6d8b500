//! Waits between tries, spread so that a fleet does not come back all at once.

use std::time::Duration;

use rand::RngExt as _;

/// Decorrelated jitter: each wait is random between the shortest and three times the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backoff {
    shortest: Duration,
    longest: Duration,
    last: Duration,
}

impl Backoff {
    pub(crate) fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, last: shortest }
    }

    pub(crate) fn next_wait(&mut self) -> Duration {
        let ceiling = self.last.saturating_mul(3).min(self.longest).max(self.shortest);
        self.last = rand::rng().random_range(self.shortest..=ceiling);
        self.last
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.last = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_their_limits_and_grow() {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut seen_long = false;
        for _ in 0..50 {
            let mut backoff = Backoff::new(shortest, longest);
            assert!(backoff.next_wait() <= Duration::from_secs(3));
            for _ in 0..30 {
                let wait = backoff.next_wait();
                assert!((shortest..=longest).contains(&wait));
                seen_long |= wait > Duration::from_secs(20);
            }
            backoff.reset();
            assert!(backoff.next_wait() <= Duration::from_secs(3));
        }
        assert!(seen_long);
    }
}
