//! Policies as people write them, in YAML: what `policy show -o yaml` prints is what `policy apply` takes.

use std::collections::BTreeMap;
use std::path::Path;

use holdfast_proto::v1;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// A policy's file is no larger, in bytes.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyFile {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) machines: Vec<String>,
    pub(crate) schedule: Schedule,
    #[serde(default, skip_serializing_if = "Retention::is_empty")]
    pub(crate) retention: Retention,
    #[serde(default)]
    pub(crate) consistency: Consistency,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) complete_within: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) disks: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Schedule {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cron: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) time_zone: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) every: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retention {
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) last: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) daily: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) weekly: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) monthly: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) yearly: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Consistency {
    pub(crate) minimum: Minimum,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Minimum {
    Application,
    #[default]
    FileSystem,
    Crash,
}

/// Reads all policies of a file; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Vec<PolicyFile>, CliError> {
    let failed = |source| CliError::ReadFile { path: path.to_owned(), source };
    let mut text = String::new();
    let count = if path.as_os_str() == "-" {
        std::io::Read::read_to_string(&mut std::io::Read::take(std::io::stdin(), MAX_BYTES + 1), &mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_BYTES + 1), &mut text)
    };
    let bad = |detail: String| CliError::BadPolicy { path: path.to_owned(), detail };
    if count.map_err(failed)? as u64 > MAX_BYTES {
        return Err(bad(format!("it is larger than {MAX_BYTES} bytes")));
    }
    parse(&text).map_err(bad)
}

/// Reads all policies of a text.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn parse(text: &str) -> Result<Vec<PolicyFile>, String> {
    let mut policies = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        // An empty document, such as after a last `---`.
        if let Some(policy) =
            Option::<PolicyFile>::deserialize(document).map_err(|error| error.to_string())?
        {
            if policies.iter().any(|other: &PolicyFile| other.name == policy.name) {
                return Err(format!("policy {:?} is in it twice", policy.name));
            }
            policies.push(policy);
        }
    }
    if policies.is_empty() { Err("there is no policy in it".to_owned()) } else { Ok(policies) }
}

impl PolicyFile {
    pub(crate) fn into_wire(self) -> (String, v1::PolicySpec) {
        let minimum = match self.consistency.minimum {
            Minimum::Application => v1::Consistency::Application,
            Minimum::FileSystem => v1::Consistency::FileSystem,
            Minimum::Crash => v1::Consistency::Crash,
        };
        let Retention { last, daily, weekly, monthly, yearly } = self.retention;
        let Schedule { cron, time_zone, every } = self.schedule;
        let spec = v1::PolicySpec {
            selector: self.selector.into_iter().collect(),
            machines: self.machines,
            schedule: Some(v1::Schedule { cron, time_zone, every }),
            retention: Some(v1::Retention { last, daily, weekly, monthly, yearly }),
            minimum_consistency: minimum.into(),
            complete_within: self.complete_within,
            disks: self.disks,
        };
        (self.name, spec)
    }

    pub(crate) fn from_wire(name: String, spec: v1::PolicySpec) -> Self {
        let minimum = match spec.minimum_consistency() {
            v1::Consistency::Application => Minimum::Application,
            v1::Consistency::Crash => Minimum::Crash,
            v1::Consistency::FileSystem | v1::Consistency::Unspecified => Minimum::FileSystem,
        };
        let schedule = spec.schedule.unwrap_or_default();
        let retention = spec.retention.unwrap_or_default();
        Self {
            name,
            selector: spec.selector.into_iter().collect(),
            machines: spec.machines,
            schedule: Schedule { cron: schedule.cron, time_zone: schedule.time_zone, every: schedule.every },
            retention: Retention {
                last: retention.last,
                daily: retention.daily,
                weekly: retention.weekly,
                monthly: retention.monthly,
                yearly: retention.yearly,
            },
            consistency: Consistency { minimum },
            complete_within: spec.complete_within,
            disks: spec.disks,
        }
    }
}

impl Retention {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Schedule {
    /// In one line, for tables.
    pub(crate) fn short(&self) -> String {
        if self.every.is_empty() {
            format!("{} {}", self.cron, self.time_zone)
        } else {
            format!("every {}", self.every)
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAILY: &str = "\
name: daily
selector:
  env: prod
schedule:
  cron: 0 2 * * *
  time_zone: Europe/Berlin
retention:
  daily: 7
  weekly: 4
consistency:
  minimum: file_system
complete_within: 24h
";

    #[test]
    fn what_is_shown_can_be_applied_and_is_shown_the_same() {
        let [policy] = parse(DAILY).unwrap().try_into().unwrap();
        let (name, spec) = policy.clone().into_wire();
        let back = PolicyFile::from_wire(name, spec);
        assert_eq!(back, policy);
        assert_eq!(serde_yaml_ng::to_string(&back).unwrap(), DAILY);
    }

    #[test]
    fn unknown_keys_and_values_are_refused() {
        for (bad, word) in [
            ("name: x\nschedule: {every: 1h}\nretension: {}\n", "unknown field `retension`"),
            ("name: x\nschedule: {evry: 1h}\n", "unknown field `evry`"),
            ("name: x\nschedule: {every: 1h}\nconsistency: {minimum: best}\n", "unknown variant `best`"),
            ("schedule: {every: 1h}\n", "missing field `name`"),
            ("name: x\n", "missing field `schedule`"),
            ("", "there is no policy in it"),
            ("---\n", "there is no policy in it"),
        ] {
            let refused = parse(bad).unwrap_err();
            assert!(refused.contains(word), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_file_may_hold_several() {
        let text = format!("{DAILY}---\nname: second\nmachines: [web1]\nschedule: {{every: 15m}}\n---\n");
        let names: Vec<String> = parse(&text).unwrap().into_iter().map(|policy| policy.name).collect();
        assert_eq!(names, ["daily", "second"]);
    }

    #[test]
    fn a_name_comes_once() {
        let error = parse(&format!("{DAILY}---\n{DAILY}")).unwrap_err();
        assert!(error.contains("\"daily\" is in it twice"), "{error}");
    }
}
