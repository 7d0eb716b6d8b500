use chrono::{DateTime, Utc};

use super::ScheduleError;

/// How often, as the user wrote it: 10 s to 366 d.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    text: String,
    seconds: i64,
}

/// Largest first, the order in which they are written.
const UNITS: [(char, i64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

const SHORTEST: i64 = 10;
const LONGEST: i64 = 366 * 86_400;

impl Period {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        ScheduleError::check_length("every", text)?;
        let seconds = read(text).ok_or_else(|| ScheduleError::Period { value: text.to_owned() })?;
        if !(SHORTEST..=LONGEST).contains(&seconds) {
            return Err(ScheduleError::PeriodRange { value: text.to_owned() });
        }
        Ok(Self { text: text.to_owned(), seconds })
    }

    pub(super) fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.slot(after.timestamp().div_euclid(self.seconds) + 1)
    }

    pub(super) fn newest_until(&self, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.slot(until.timestamp().div_euclid(self.seconds))
    }

    fn slot(&self, number: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(number.checked_mul(self.seconds)?, 0)
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Seconds of `1h30m` and the like, in whatever field; see [`Period`].
pub(crate) fn seconds_of(text: &str) -> Option<i64> {
    if text.len() > 64 { None } else { read(text) }
}

/// Seconds; more than fit are the most that fit. None unless it is numbers with a unit each, every unit at most once, the
/// largest first.
fn read(text: &str) -> Option<i64> {
    let mut units = UNITS.iter();
    let mut seconds = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = after.chars().next()?;
        let (_, unit_seconds) = units.find(|(name, _)| *name == unit)?;
        if number.is_empty() {
            return None;
        }
        let number = number.parse::<i64>().unwrap_or(i64::MAX);
        seconds = seconds.saturating_add(number.saturating_mul(*unit_seconds));
        rest = after.strip_prefix(unit)?;
    }
    (!text.is_empty()).then_some(seconds)
}
