//! What a storage enforces of a lock. Pure.

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use holdfast_vault_format::event::LockMode;

/// Until when a storage refuses to delete something, whoever asks, and who may lift that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Governance: whoever the storage's owner lets bypass it. Compliance: nobody.
    pub mode: LockMode,
    pub until: DateTime<Utc>,
}

impl Retention {
    /// To the end of a second: servers know no parts of one.
    pub(crate) fn new(mode: LockMode, until: DateTime<Utc>) -> Self {
        let second = TimeDelta::seconds(1);
        let whole = until.duration_trunc(second).unwrap_or(until);
        Self { mode, until: if whole < until { whole + second } else { until } }
    }

    /// Whether it is as strict as another one, and as long.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.mode >= other.mode && self.until >= other.until
    }

    /// What is to be set where `there` is enforced already, so that this one is as well; `None` if it is. Never less than what is
    /// there, which no server allows.
    pub(crate) fn to_set(self, there: Option<Self>) -> Option<Self> {
        match there {
            None => Some(self),
            Some(there) if there.covers(self) => None,
            Some(there) => Some(Self { mode: self.mode.max(there.mode), until: self.until.max(there.until) }),
        }
    }

    /// What holds of two things together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { mode: self.mode.min(other.mode), until: self.until.min(other.until) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockMode::{Compliance, Governance};

    fn retention(mode: LockMode, seconds: i64) -> Retention {
        Retention::new(mode, DateTime::from_timestamp(seconds, 0).unwrap())
    }

    #[test]
    fn it_is_only_ever_raised() {
        let is = retention(Compliance, 20);
        for (wanted, expected) in [
            (retention(Governance, 10), None),
            (retention(Compliance, 20), None),
            (retention(Compliance, 30), Some(retention(Compliance, 30))),
            // What nobody may lift is not made into what somebody may.
            (retention(Governance, 30), Some(retention(Compliance, 30))),
        ] {
            assert_eq!(wanted.to_set(Some(is)), expected, "{wanted:?}");
        }
        assert_eq!(
            retention(Compliance, 10).to_set(Some(retention(Governance, 20))),
            Some(retention(Compliance, 20))
        );
        assert_eq!(retention(Governance, 10).to_set(None), Some(retention(Governance, 10)));
    }

    #[test]
    fn of_many_things_the_weakest_counts() {
        assert_eq!(retention(Compliance, 10).and(retention(Governance, 20)), retention(Governance, 10));
    }

    #[test]
    fn a_part_of_a_second_is_a_whole_one() {
        let instant = |millis| DateTime::from_timestamp_millis(millis).unwrap();
        assert_eq!(Retention::new(Governance, instant(1_001)).until, instant(2_000));
        assert_eq!(Retention::new(Governance, instant(2_000)).until, instant(2_000));
        assert_eq!(Retention::new(Governance, DateTime::<Utc>::MAX_UTC).until, DateTime::<Utc>::MAX_UTC);
    }
}
