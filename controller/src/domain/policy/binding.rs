use std::collections::BTreeMap;

use super::{Policy, Target};

/// Which policy a machine is under.
#[derive(Clone, Debug)]
pub(crate) enum Bound<'p> {
    None,
    One(&'p Policy),
    /// Several that match equally well: none applies. Their names, ascending.
    Tie(Vec<&'p str>),
}

/// A policy that this version cannot read, such as one of a newer version.
#[derive(Clone, Debug)]
pub(crate) struct UnreadablePolicy {
    pub(crate) name: String,
    /// `None` if it cannot be read either.
    pub(crate) target: Option<Target>,
}

impl UnreadablePolicy {
    /// Whether a machine that is bound to `bound` may rather be this one's, or in conflict for it. Of one without a target that
    /// cannot be told, and is not assumed.
    pub(crate) fn contests(&self, name: &str, labels: &BTreeMap<String, String>, bound: &Policy) -> bool {
        match (&self.target, &bound.spec.target) {
            (None, _) | (Some(Target::Labels(_)), Target::Names(_)) => false,
            (Some(Target::Names(names)), _) => names.contains(name),
            (Some(Target::Labels(wanted)), Target::Labels(_)) => has_labels(labels, wanted),
        }
    }
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// By name beats by labels.
pub(crate) fn bind<'p>(name: &str, labels: &BTreeMap<String, String>, policies: &'p [Policy]) -> Bound<'p> {
    let by_name = |policy: &&Policy| match &policy.spec.target {
        Target::Names(names) => names.contains(name),
        Target::Labels(_) => false,
    };
    let by_labels = |policy: &&Policy| match &policy.spec.target {
        Target::Names(_) => false,
        Target::Labels(wanted) => has_labels(labels, wanted),
    };
    let mut matching: Vec<&Policy> = policies.iter().filter(by_name).collect();
    if matching.is_empty() {
        matching = policies.iter().filter(by_labels).collect();
    }
    match matching.as_slice() {
        [] => Bound::None,
        [one] => Bound::One(one),
        _ => {
            let mut names: Vec<&str> = matching.iter().map(|policy| policy.name.as_str()).collect();
            names.sort_unstable();
            Bound::Tie(names)
        }
    }
}

/// Whether a machine is under the same of these policies with either labels.
pub(crate) fn is_bound_alike(
    name: &str,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    policies: &[Target],
) -> bool {
    let is_named = |policy: &Target| matches!(policy, Target::Names(names) if names.contains(name));
    let is_alike = |policy: &Target| match policy {
        Target::Names(_) => true,
        Target::Labels(wanted) => has_labels(before, wanted) == has_labels(after, wanted),
    };
    policies.iter().any(is_named) || policies.iter().all(is_alike)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use uuid::Uuid;

    use super::super::{PolicyDocument, ScheduleDocument};
    use super::*;

    fn policy(name: &str, machines: &[&str], selector: &[(&str, &str)]) -> Policy {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let document = PolicyDocument {
            machines: machines.iter().map(|name| (*name).to_owned()).collect(),
            selector: selector.iter().map(owned).collect(),
            schedule: ScheduleDocument { every: "1h".to_owned(), ..ScheduleDocument::default() },
            ..PolicyDocument::default()
        }
        .with_defaults();
        Policy {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            revision: 1,
            created_at: DateTime::<Utc>::UNIX_EPOCH,
            updated_at: DateTime::<Utc>::UNIX_EPOCH,
            wanted_since: DateTime::<Utc>::UNIX_EPOCH,
            evaluated_until: DateTime::<Utc>::UNIX_EPOCH,
            spec: document.check(name).unwrap(),
            document,
        }
    }

    fn bound(machine: &str, labels: &[(&str, &str)], policies: &[Policy]) -> String {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match bind(machine, &labels, policies) {
            Bound::None => "none".to_owned(),
            Bound::One(policy) => policy.name.clone(),
            Bound::Tie(names) => names.join("+"),
        }
    }

    #[test]
    fn by_name_beats_by_labels_and_a_tie_is_none() {
        let policies = [
            policy("prod", &[], &[("env", "prod")]),
            policy("db", &[], &[("env", "prod"), ("role", "db")]),
            policy("web1", &["web1", "web9"], &[]),
            policy("web9", &["web9"], &[]),
        ];
        assert_eq!(bound("web2", &[], &policies), "none");
        assert_eq!(bound("web2", &[("env", "prod")], &policies), "prod");
        assert_eq!(bound("web2", &[("env", "prod"), ("role", "db")], &policies), "db+prod");
        assert_eq!(bound("web2", &[("role", "db")], &policies), "none");
        assert_eq!(bound("web1", &[("env", "prod")], &policies), "web1");
        assert_eq!(bound("web9", &[("env", "prod")], &policies), "web1+web9");
    }

    #[test]
    fn labels_that_no_policy_asks_for_change_nothing() {
        let targets = [policy("named", &["web1"], &[]), policy("labelled", &[], &[("env", "prod")])]
            .map(|policy| policy.spec.target);
        let labels = |labels: &[(&str, &str)]| -> BTreeMap<String, String> {
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let alike = |name: &str, before: &[(&str, &str)], after: &[(&str, &str)]| {
            is_bound_alike(name, &labels(before), &labels(after), &targets)
        };
        assert!(alike("web2", &[("env", "prod")], &[("env", "prod"), ("kernel", "6.1")]));
        assert!(alike("web2", &[("env", "test")], &[]));
        assert!(!alike("web2", &[("env", "prod")], &[("env", "test")]));
        assert!(!alike("web2", &[], &[("env", "prod")]));
        assert!(alike("web1", &[], &[("env", "prod")]), "by name beats it");
    }

    #[test]
    fn a_policy_that_cannot_be_read_contests_what_it_may_be_for() {
        let [named, labelled] =
            [policy("named", &["web1"], &[]), policy("labelled", &[], &[("env", "prod")])];
        let unreadable = |target| UnreadablePolicy { name: "new".to_owned(), target };
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let contested = |policy: &UnreadablePolicy| {
            [&named, &labelled].map(|bound| policy.contests("web1", &labels, bound))
        };
        assert_eq!(contested(&unreadable(Some(named.spec.target.clone()))), [true, true]);
        assert_eq!(
            contested(&unreadable(Some(labelled.spec.target.clone()))),
            [false, true],
            "by name beats it"
        );
        let other = policy("other", &["web2"], &[]).spec.target;
        assert_eq!(contested(&unreadable(Some(other))), [false, false]);
        let other = policy("other", &[], &[("env", "test")]).spec.target;
        assert_eq!(contested(&unreadable(Some(other))), [false, false]);
        assert_eq!(contested(&unreadable(None)), [false, false]);
    }
}
