use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::job::Consistency;
use crate::domain::name::{is_disk_name, is_label, is_machine_name};
use crate::domain::retention::Retention;
use crate::domain::schedule::{Schedule, ScheduleError, seconds_of};

use super::{PolicySpec, Target};

const DEFAULT_COMPLETE_WITHIN: &str = "24h";
const SHORTEST_COMPLETE_WITHIN: Duration = Duration::from_secs(60);
const LONGEST_COMPLETE_WITHIN: Duration = Duration::from_secs(31 * 86_400);
const MAX_LABELS: usize = 64;
const MAX_MACHINES: usize = 10_000;
const MAX_DISKS: usize = 1024;
const MAX_KEPT: u32 = 10_000;

/// A policy as its author wrote it: what is stored and shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PolicyDocument {
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) machines: Vec<String>,
    pub(crate) schedule: ScheduleDocument,
    pub(crate) retention: RetentionDocument,
    pub(crate) minimum_consistency: String,
    pub(crate) complete_within: String,
    pub(crate) disks: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScheduleDocument {
    pub(crate) cron: String,
    pub(crate) time_zone: String,
    pub(crate) every: String,
}

/// What can be told of a policy of which the rest cannot be read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TargetDocument {
    selector: BTreeMap<String, String>,
    machines: Vec<String>,
}

/// The target of a policy that this version cannot read; `None` if that cannot be read either.
pub(crate) fn target_of(spec: &serde_json::Value) -> Option<Target> {
    let TargetDocument { selector, machines } = TargetDocument::deserialize(spec).ok()?;
    PolicyDocument { selector, machines, ..PolicyDocument::default() }.target().ok()
}

/// How many points are kept by each rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetentionDocument {
    pub(crate) last: u32,
    pub(crate) daily: u32,
    pub(crate) weekly: u32,
    pub(crate) monthly: u32,
    pub(crate) yearly: u32,
}

/// Why a policy was refused. Each names the field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("name: {0:?} is not valid; expected 1 to 63 of [A-Za-z0-9._-]")]
    Name(String),
    #[error("selector, machines: expected exactly one of them")]
    Target,
    #[error("selector: {key}={value} is not a label; keys and values are at most 63 of [A-Za-z0-9._/-]")]
    Label { key: String, value: String },
    #[error("machines: {0:?} is not the name of a machine")]
    Machine(String),
    #[error("disks: {0:?} is not the name of a disk")]
    Disk(String),
    #[error("{field}: expected at most {most}")]
    TooMany { field: &'static str, most: usize },
    #[error("schedule: expected either cron (with time_zone) or every")]
    Schedule,
    #[error("schedule.{0}")]
    ScheduleValue(ScheduleError),
    #[error("retention: expected numbers of at most {MAX_KEPT}")]
    Retention,
    #[error("consistency.minimum: {0:?} is not known; expected application, file_system or crash")]
    Consistency(String),
    #[error("complete_within: {0:?} is not valid; expected 1m to 31d, such as 24h")]
    CompleteWithin(String),
}

impl PolicyDocument {
    /// Fills in what was left out, so that what is shown is what holds.
    pub(crate) fn with_defaults(mut self) -> Self {
        if self.minimum_consistency.is_empty() {
            self.minimum_consistency = Consistency::FileSystem.as_str().to_owned();
        }
        if self.complete_within.is_empty() {
            self.complete_within = DEFAULT_COMPLETE_WITHIN.to_owned();
        }
        if !self.schedule.cron.is_empty() && self.schedule.time_zone.is_empty() {
            self.schedule.time_zone = "UTC".to_owned();
        }
        self
    }

    /// Whether both want backups of the same machines at the same times.
    pub(crate) fn wants_the_same_as(&self, other: &Self) -> bool {
        self.selector == other.selector && self.machines == other.machines && self.schedule == other.schedule
    }

    /// Checks everything.
    pub(crate) fn check(&self, name: &str) -> Result<PolicySpec, PolicyError> {
        if name.len() > 63 || !is_disk_name(name) {
            return Err(PolicyError::Name(name.to_owned()));
        }
        for (field, count, most) in [
            ("selector", self.selector.len(), MAX_LABELS),
            ("machines", self.machines.len(), MAX_MACHINES),
            ("disks", self.disks.len(), MAX_DISKS),
        ] {
            if count > most {
                return Err(PolicyError::TooMany { field, most });
            }
        }
        if let Some(disk) = self.disks.iter().find(|disk| !is_disk_name(disk)) {
            return Err(PolicyError::Disk(disk.clone()));
        }
        let schedule = self.schedule.check()?;
        let RetentionDocument { last, daily, weekly, monthly, yearly } = self.retention;
        if [last, daily, weekly, monthly, yearly].into_iter().any(|kept| kept > MAX_KEPT) {
            return Err(PolicyError::Retention);
        }
        let time_zone = schedule.time_zone();
        Ok(PolicySpec {
            target: self.target()?,
            schedule,
            retention: Retention { last, daily, weekly, monthly, yearly, time_zone },
            minimum: Consistency::parse(&self.minimum_consistency)
                .ok_or_else(|| PolicyError::Consistency(self.minimum_consistency.clone()))?,
            complete_within: self.complete_within()?,
            disks: self.disks.clone(),
        })
    }

    fn target(&self) -> Result<Target, PolicyError> {
        match (self.selector.is_empty(), self.machines.is_empty()) {
            (false, true) => match self.selector.iter().find(|(key, value)| !is_label(key, value)) {
                Some((key, value)) => Err(PolicyError::Label { key: key.clone(), value: value.clone() }),
                None => Ok(Target::Labels(self.selector.clone())),
            },
            (true, false) => match self.machines.iter().find(|name| !is_machine_name(name)) {
                Some(name) => Err(PolicyError::Machine(name.clone())),
                None => Ok(Target::Names(self.machines.iter().cloned().collect())),
            },
            _ => Err(PolicyError::Target),
        }
    }

    fn complete_within(&self) -> Result<Duration, PolicyError> {
        seconds_of(&self.complete_within)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs)
            .filter(|within| (SHORTEST_COMPLETE_WITHIN..=LONGEST_COMPLETE_WITHIN).contains(within))
            .ok_or_else(|| PolicyError::CompleteWithin(self.complete_within.clone()))
    }
}

impl ScheduleDocument {
    fn check(&self) -> Result<Schedule, PolicyError> {
        match (self.cron.is_empty(), self.every.is_empty()) {
            (false, true) => Schedule::cron(&self.cron, &self.time_zone).map_err(PolicyError::ScheduleValue),
            (true, false) if self.time_zone.is_empty() => {
                Schedule::every(&self.every).map_err(PolicyError::ScheduleValue)
            }
            _ => Err(PolicyError::Schedule),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn daily() -> PolicyDocument {
        PolicyDocument {
            selector: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            schedule: ScheduleDocument { cron: "0 2 * * *".to_owned(), ..ScheduleDocument::default() },
            ..PolicyDocument::default()
        }
        .with_defaults()
    }

    #[test]
    fn what_was_left_out_is_filled_in() {
        let document = daily();
        assert_eq!(document.schedule.time_zone, "UTC");
        let spec = document.check("daily").unwrap();
        assert_eq!(spec.minimum, Consistency::FileSystem);
        assert_eq!(spec.complete_within, Duration::from_secs(86_400));
        assert_eq!(document.clone().with_defaults(), document);
    }

    #[test]
    fn each_mistake_names_its_field() {
        type Change = fn(&mut PolicyDocument);
        let bad = |change: Change| {
            let mut document = daily();
            change(&mut document);
            document.check("daily").unwrap_err().to_string()
        };
        let cases: [(&str, Change); 9] = [
            ("selector, machines", |d| d.selector.clear()),
            ("selector, machines", |d| d.machines = vec!["web1".to_owned()]),
            ("selector: ", |d| d.selector = BTreeMap::from([("a b".to_owned(), String::new())])),
            ("schedule: ", |d| d.schedule.every = "1h".to_owned()),
            ("schedule.cron", |d| d.schedule.cron = "0 2 * *".to_owned()),
            ("schedule.time_zone", |d| d.schedule.time_zone = "Mars".to_owned()),
            ("complete_within", |d| d.complete_within = "5s".to_owned()),
            ("consistency.minimum", |d| d.minimum_consistency = "good".to_owned()),
            ("disks", |d| d.disks = vec!["a/b".to_owned()]),
        ];
        for (field, change) in cases {
            let message = bad(change);
            assert!(message.starts_with(field), "{field}: {message}");
        }
        assert!(daily().check("no spaces").unwrap_err().to_string().starts_with("name"));
    }

    /// The largest that is taken, and the smallest that is not.
    #[test]
    fn limits() {
        type Change = fn(&mut PolicyDocument);
        let check = |change: Change| {
            let mut document = daily();
            change(&mut document);
            document.check("daily").map(drop)
        };
        let labels = |count: usize| (0..count).map(|number| (format!("k{number}"), String::new())).collect();
        let mut many = PolicyDocument { selector: labels(64), ..daily() };
        assert!(many.check("daily").is_ok());
        many.selector = labels(65);
        assert_eq!(many.check("daily").unwrap_err(), PolicyError::TooMany { field: "selector", most: 64 });
        let names = |count: usize| (0..count).map(|number| format!("n{number}")).collect::<Vec<_>>();
        let mut many = PolicyDocument { selector: labels(0), machines: names(10_000), ..daily() };
        assert!(many.check("daily").is_ok());
        many.machines = names(10_001);
        assert_eq!(
            many.check("daily").unwrap_err(),
            PolicyError::TooMany { field: "machines", most: 10_000 }
        );
        let mut many = PolicyDocument { disks: names(1024), ..daily() };
        assert_eq!(many.check("daily").unwrap().disks, names(1024));
        many.disks = names(1025);
        assert_eq!(many.check("daily").unwrap_err(), PolicyError::TooMany { field: "disks", most: 1024 });

        let kept: [fn(&mut RetentionDocument) -> &mut u32; 5] =
            [|r| &mut r.last, |r| &mut r.daily, |r| &mut r.weekly, |r| &mut r.monthly, |r| &mut r.yearly];
        for field in kept {
            let mut document = daily();
            *field(&mut document.retention) = 10_000;
            assert!(document.check("daily").is_ok());
            *field(&mut document.retention) = 10_001;
            assert_eq!(document.check("daily").unwrap_err(), PolicyError::Retention);
        }
        let within: [(Change, bool); 4] = [
            (|d| d.complete_within = "59s".to_owned(), false),
            (|d| d.complete_within = "1m".to_owned(), true),
            (|d| d.complete_within = "31d".to_owned(), true),
            (|d| d.complete_within = "31d1s".to_owned(), false),
        ];
        for (change, good) in within {
            assert_eq!(check(change).is_ok(), good);
        }
        assert!(daily().check(&"x".repeat(63)).is_ok());
        assert!(matches!(daily().check(&"x".repeat(64)), Err(PolicyError::Name(_))));
    }

    #[test]
    fn machines_are_named_and_an_interval_has_no_zone() {
        let named = |name: &str| PolicyDocument {
            selector: BTreeMap::new(),
            machines: vec!["web1".to_owned(), name.to_owned()],
            ..daily()
        };
        assert_eq!(named("a/b").check("daily").unwrap_err(), PolicyError::Machine("a/b".to_owned()));
        let both = BTreeSet::from(["web1".to_owned(), "web2".to_owned()]);
        assert_eq!(named("web2").check("daily").unwrap().target, Target::Names(both));
        let schedule = |cron: &str, time_zone: &str, every: &str| {
            let [cron, time_zone, every] = [cron, time_zone, every].map(str::to_owned);
            let schedule = ScheduleDocument { cron, time_zone, every };
            PolicyDocument { schedule, ..daily() }.check("daily").map(|spec| spec.schedule)
        };
        assert_eq!(schedule("", "", "1h").unwrap(), Schedule::every("1h").unwrap());
        assert_eq!(schedule("", "UTC", "1h").unwrap_err(), PolicyError::Schedule);
        assert_eq!(schedule("", "", "").unwrap_err(), PolicyError::Schedule);
        let none = PolicyDocument { selector: BTreeMap::new(), ..PolicyDocument::default() }.with_defaults();
        assert_eq!(none.schedule.time_zone, "", "an interval has no zone");
    }

    #[test]
    fn of_a_policy_that_cannot_be_read_the_target_is() {
        let target = |text: &str| target_of(&serde_json::from_str(text).unwrap());
        let names = Target::Names(BTreeSet::from(["web1".to_owned()]));
        assert_eq!(target(r#"{"machines": ["web1"], "weather": "fine", "retention": 7}"#), Some(names));
        assert_eq!(target(r#"{"weather": "fine"}"#), None);
        assert_eq!(target(r#"{"selector": {"env": ["prod", "test"]}}"#), None);
        assert_eq!(target("7"), None);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let refused = serde_json::from_str::<PolicyDocument>(r#"{"schedul": {}}"#).unwrap_err();
        assert!(refused.to_string().contains("unknown field `schedul`"), "{refused}");
    }
}
