use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::ScheduleError;

mod field;

/// A cron expression, as the user wrote it, that fires at some time.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CronExpression {
    text: String,
    cron: Cron,
}

impl CronExpression {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        field::check(ScheduleError::check_length("cron", text)?)?;
        let never = || ScheduleError::NeverFires { value: text.to_owned() };
        // Whatever is left that croner refuses or cannot find is a day that does not exist.
        let cron = parser().parse(text).map_err(|_| never())?;
        cron.find_next_occurrence(&NaiveDate::default().and_time(chrono::NaiveTime::MIN), true)
            .map_err(|_| never())?;
        Ok(Self { text: text.to_owned(), cron })
    }

    /// The first slot after the whole second `after`.
    pub(super) fn next_after(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = after.with_timezone(&zone);
        if !self.has_fixed_times() {
            return self.cron.find_next_occurrence(&local, false).ok().map(|slot| slot.to_utc());
        }
        // Later wall times never have earlier slots, so the first that is late enough is the one. Turned down are only
        // those of an overlap's first pass while the clock is in the second.
        let mut wall = local.naive_local();
        loop {
            wall = self.cron.find_next_occurrence(&wall, false).ok()?;
            let slot = fixed_slot(zone, wall)?;
            if slot > after {
                return Some(slot);
            }
        }
    }

    /// The newest slot that is not after the whole second `until`.
    pub(super) fn newest_until(&self, zone: Tz, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = until.with_timezone(&zone);
        if !self.has_fixed_times() {
            return self.cron.find_previous_occurrence(&local, true).ok().map(|slot| slot.to_utc());
        }
        let mut wall = latest_wall(zone, until) + TimeDelta::seconds(1);
        loop {
            wall = self.cron.find_previous_occurrence(&wall, false).ok()?;
            let slot = fixed_slot(zone, wall)?;
            if slot <= until {
                return Some(slot);
            }
        }
    }

    /// Vixie cron's distinction. croner's own counts `0 2,14 * * *` as an interval and would lose its 02:00 in a gap, so
    /// it is asked about fixed times on a wall clock without daylight saving only.
    fn has_fixed_times(&self) -> bool {
        !self.cron.pattern.minutes.from_wildcard && !self.cron.pattern.hours.from_wildcard
    }
}

impl std::fmt::Display for CronExpression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text says it all; the parsed pattern would print thousands of bytes.
impl std::fmt::Debug for CronExpression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CronExpression").field(&self.text).finish()
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build()
}

/// When a fixed wall time runs: the first time the clock shows it, or else the first instant after the gap that skips it.
fn fixed_slot(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    match zone.from_local_datetime(&wall) {
        LocalResult::Single(slot) | LocalResult::Ambiguous(slot, _) => Some(slot.to_utc()),
        LocalResult::None => end_of_gap(zone, wall),
    }
}

/// The first second at which the clock shows more than `wall`, which it skips.
fn end_of_gap(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    // No offset and no gap is longer than a day.
    let near = wall.and_utc().timestamp();
    let (mut before, mut behind) = (near - 2 * 86_400, near + 2 * 86_400);
    while behind - before > 1 {
        let middle = before + (behind - before) / 2;
        if wall_at(zone, DateTime::from_timestamp(middle, 0)?) > wall {
            behind = middle;
        } else {
            before = middle;
        }
    }
    DateTime::from_timestamp(behind, 0)
}

/// The latest wall time that the clock has shown up to `until`, or a later one: in an overlap's second pass it has shown all
/// of the first, and in the first pass what is too late is turned down.
fn latest_wall(zone: Tz, until: DateTime<Utc>) -> NaiveDateTime {
    let wall = wall_at(zone, until);
    match zone.from_local_datetime(&wall) {
        LocalResult::Ambiguous(first, second) => wall + (second - first),
        _ => wall,
    }
}

fn wall_at(zone: Tz, instant: DateTime<Utc>) -> NaiveDateTime {
    instant.naive_utc() + zone.offset_from_utc_datetime(&instant.naive_utc()).fix()
}
