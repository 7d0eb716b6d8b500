//! The vault's time: what its collections saw, so that a clock that is set ahead for a minute ends no window.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::standing::Now;

/// The vault's time goes on by so much between two collections without an operator's word.
const MAX_STEP: Duration = Duration::from_secs(48 * 3600);

/// What the clock is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockTrust {
    /// If more than 48 hours have passed since the last collection, no window ends.
    Checked,
    /// An operator says that the time is right.
    Trusted,
}

/// The vault's time now, and by how much the clock leapt if it is not followed. Microseconds since 1970.
pub(crate) fn advance(previous: Option<i64>, clock: i64, trust: ClockTrust) -> (i64, Option<Duration>) {
    let Some(previous) = previous else { return (clock, None) };
    // A clock that went back has to catch up.
    let passed = Duration::from_micros(u64::try_from(clock.saturating_sub(previous)).unwrap_or(0));
    if passed > MAX_STEP && trust == ClockTrust::Checked {
        return (previous, Some(passed));
    }
    (previous.max(clock), None)
}

/// A clock that is wrong must neither end a lock early nor keep a cooling-off period open.
pub(crate) fn now(clock: DateTime<Utc>, vault_time: Option<i64>) -> Now {
    let Some(vault) = vault_time.and_then(DateTime::from_timestamp_micros) else {
        return Now { earliest: clock, latest: clock };
    };
    Now { earliest: clock.min(vault + MAX_STEP), latest: clock.max(vault) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn it_follows_a_clock_that_goes_on() {
        assert_eq!(advance(None, 5, ClockTrust::Checked), (5, None));
        assert_eq!(advance(Some(HOUR), 49 * HOUR, ClockTrust::Checked), (49 * HOUR, None));
    }

    /// A lock must not end early by a clock that is ahead, nor a cooling-off period last by one that is behind.
    #[test]
    fn it_believes_a_clock_within_two_days_of_the_vault() {
        let at = |hours: i64| DateTime::from_timestamp_micros(hours * HOUR).unwrap();
        let vault = Some(100 * HOUR);
        for (clock, earliest, latest) in [(90, 90, 100), (101, 101, 101), (148, 148, 148), (500, 148, 500)] {
            let Now { earliest: early, latest: late } = now(at(clock), vault);
            assert_eq!((early, late), (at(earliest), at(latest)), "at {clock} hours");
        }
        assert_eq!(now(at(7), None).earliest, at(7));
    }

    #[test]
    fn it_waits_for_one_that_went_back() {
        assert_eq!(advance(Some(9 * HOUR), 2 * HOUR, ClockTrust::Checked), (9 * HOUR, None));
        assert_eq!(advance(Some(9 * HOUR), i64::MIN, ClockTrust::Trusted), (9 * HOUR, None));
    }

    #[test]
    fn it_leaps_only_if_somebody_says_so() {
        let leap = Some(Duration::from_secs(49 * 3600));
        assert_eq!(advance(Some(HOUR), 50 * HOUR, ClockTrust::Checked), (HOUR, leap));
        assert_eq!(advance(Some(HOUR), 50 * HOUR, ClockTrust::Trusted), (50 * HOUR, None));
    }
}
