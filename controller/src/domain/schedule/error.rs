/// Why a schedule was refused. `cron`, `time_zone` and `every` are the spec's fields.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScheduleError {
    #[error("{field}: {length} bytes; expected at most {LONGEST}")]
    TooLong { field: &'static str, length: usize },

    #[error(
        "cron: {value:?} has {found} fields; expected five: minute, hour, day of month, month, day of week (no seconds: \
         for periods under a minute use `every`)"
    )]
    FieldCount { value: String, found: usize },

    #[error("cron: {value:?} is no known nickname; expected @hourly, @daily, @weekly, @monthly or @yearly")]
    Nickname { value: String },

    #[error("cron: {field} {value:?} is not valid; expected {expected}")]
    Field { field: &'static str, value: String, expected: &'static str },

    #[error("cron: {value:?} never fires; expected days that exist in the months named")]
    NeverFires { value: String },

    #[error("time_zone: {value:?} is not known; expected an IANA name such as Europe/Berlin or UTC")]
    TimeZone { value: String },

    #[error(
        "every: {value:?} is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s"
    )]
    Period { value: String },

    #[error("every: {value:?} is out of range; expected 10s to 366d")]
    PeriodRange { value: String },
}

/// In bytes; no field needs more, and errors repeat their value.
const LONGEST: usize = 256;

impl ScheduleError {
    pub(super) fn check_length<'a>(field: &'static str, value: &'a str) -> Result<&'a str, Self> {
        if value.len() > LONGEST {
            return Err(Self::TooLong { field, length: value.len() });
        }
        Ok(value)
    }
}
