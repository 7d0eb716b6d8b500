//! When a policy wants backups. Pure: the time always comes in, so every controller that asks about the same instant
//! hears the same slots.
//!
//! A slot is a whole second in UTC. Cron expressions are read on a wall clock, which daylight saving time moves; the
//! rule is Vixie cron's:
//!
//! - *Fixed times*, neither the minute nor the hour made with `*` (`0 2 * * *`, `30 1,13 * * 1-5`): a time that the
//!   clock skips runs at the first instant after the gap, several of them once; a time that the clock shows twice runs
//!   the first time only.
//! - *Intervals*, `*` in the minute or the hour (`*/15 * * * *`, `0 */4 * * *`, `*/5 2 * * *`): whenever the clock shows
//!   such a time. So they run in both passes of an overlap and not at all in a gap.
//!
//! If neither the day of month nor the day of week is exactly `*`, either of them is enough. The zones' rules end with the
//! year 2099; afterwards each keeps the offset that it had then.

mod cron;
mod error;
mod period;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Datelike, Months, Utc};

pub(crate) use cron::CronExpression;
pub(crate) use error::ScheduleError;
pub(crate) use period::{Period, seconds_of};

/// A slot further away than this is never.
const HORIZON: Months = Months::new(8 * 12);

/// The most slots that one preview shows.
const MOST_PREVIEWED: usize = 100;

/// Years that can be asked about; far inside what chrono and croner can count.
const YEARS: std::ops::Range<i32> = 1900..4900;

/// When a policy wants backups. Validated: whatever exists can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    Cron { expression: CronExpression, time_zone: chrono_tz::Tz },
    Every { period: Period },
}

impl Schedule {
    /// Reads five fields (`0 2 * * *`) or one of `@hourly @daily @weekly @monthly @yearly`, and an IANA zone name.
    pub(crate) fn cron(expression: &str, time_zone: &str) -> Result<Self, ScheduleError> {
        let expression = CronExpression::parse(expression)?;
        let time_zone = ScheduleError::check_length("time_zone", time_zone)?
            .parse()
            .map_err(|_| ScheduleError::TimeZone { value: time_zone.to_owned() })?;
        Ok(Self::Cron { expression, time_zone })
    }

    /// Reads `15m`, `90s`, `1h30m`, `1d`: 10 s to 366 d. Its slots are the multiples of the period since the Unix epoch.
    pub(crate) fn every(text: &str) -> Result<Self, ScheduleError> {
        Ok(Self::Every { period: Period::parse(text)? })
    }

    /// Whose days the slots are told by.
    pub(crate) fn time_zone(&self) -> chrono_tz::Tz {
        match self {
            Self::Cron { time_zone, .. } => *time_zone,
            Self::Every { .. } => chrono_tz::Tz::UTC,
        }
    }

    /// The first slot strictly after `after`. None if there is none within 8 years, or outside the years 1900 to 4899.
    pub(crate) fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = whole_seconds(after)?;
        let horizon = after.checked_add_months(HORIZON)?;
        let slot = match self {
            Self::Cron { expression, time_zone } => expression.next_after(*time_zone, after),
            Self::Every { period } => period.next_after(after),
        };
        slot.filter(|slot| *slot <= horizon)
    }

    /// The newest slot in (after, until]: after downtime only this one runs. None if the clock went back, that is, if
    /// `until` is before `after`. Searches backwards from `until`, so the work does not grow with the gap.
    pub(crate) fn newest_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let until = whole_seconds(until)?;
        let slot = match self {
            Self::Cron { expression, time_zone } => expression.newest_until(*time_zone, until),
            Self::Every { period } => period.newest_until(until),
        };
        slot.filter(|slot| *slot > after)
    }

    /// The next `count` slots, in order; at most 100, and fewer if the schedule ends.
    pub(crate) fn preview(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next_after(after), |slot| self.next_after(*slot))
            .take(count.min(MOST_PREVIEWED))
            .collect()
    }
}

/// Slots are whole seconds: rounding down changes neither what is after an instant nor what is not.
fn whole_seconds(instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(instant.timestamp(), 0).filter(|instant| YEARS.contains(&instant.year()))
}
