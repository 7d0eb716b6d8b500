//! What an operator should know about a machine. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use uuid::Uuid;

use super::policy::{Bound, Policy, bind};

/// A protected machine may be away for so long before that is worth a word.
const OFFLINE_AFTER: TimeDelta = TimeDelta::minutes(15);
/// Machines with points that do not restore.
pub(crate) const POINTS_DAMAGED: &str = "points_damaged";
/// Machines of whose points not everything was read for longer than it may be.
pub(crate) const VERIFICATION_OVERDUE: &str = "verification_overdue";

/// All that the conditions depend on.
#[derive(Clone, Debug)]
pub(crate) struct MachineView<'m> {
    pub(crate) id: Uuid,
    pub(crate) name: &'m str,
    pub(crate) labels: &'m BTreeMap<String, String>,
    /// Since when its labels bind it as they do.
    pub(crate) labelled_at: DateTime<Utc>,
    pub(crate) quarantine: Option<&'m str>,
    pub(crate) removed_at: Option<DateTime<Utc>>,
    /// One that was found in the vault has none until somebody enrols one.
    pub(crate) has_agent: bool,
    pub(crate) online: bool,
    pub(crate) last_seen_at: Option<DateTime<Utc>>,
    /// The newest slot that a point serves; when that point was made does not matter.
    pub(crate) served_until: Option<DateTime<Utc>>,
}

/// The protection of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Protection<'p> {
    pub(crate) policy: Option<&'p Policy>,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) action: String,
}

/// Which policy protects a machine, and what needs a look.
pub(crate) fn protection<'p>(
    machine: &MachineView<'_>,
    policies: &'p [Policy],
    now: DateTime<Utc>,
) -> Protection<'p> {
    let mut conditions = Vec::new();
    if machine.removed_at.is_some() {
        return Protection { policy: None, conditions };
    }
    if !machine.has_agent {
        conditions.push(Condition {
            code: "no_agent",
            message: "it was found in the vault and has no agent: nothing is backed up, and no policy deletes its points".to_owned(),
            action: format!(
                "enrol its agent with a token of `holdfast token create --machine {name}`, or `holdfast machine remove {name}`",
                name = machine.name
            ),
        });
    }
    if let Some(reason) = machine.quarantine {
        conditions.push(Condition {
            code: "clone",
            message: format!("nothing runs on it: {reason}"),
            action: format!(
                "stop the copy's agent, remove its state directory and enrol it as a machine of its own; then \
                 `holdfast machine lift-quarantine {}` lets the original go on",
                machine.name
            ),
        });
    }
    let policy = match bind(machine.name, machine.labels, policies) {
        Bound::One(policy) => Some(policy),
        Bound::None => {
            conditions.push(Condition {
                code: "unprotected",
                message: "no policy matches it".to_owned(),
                action: "name it in a policy, or give it the labels of one with `holdfast machine label`"
                    .to_owned(),
            });
            None
        }
        Bound::Tie(names) => {
            conditions.push(Condition {
                code: "policy_conflict",
                message: format!("several policies match it equally, so none applies: {}", names.join(", ")),
                action: "name it in one of them, or make their selectors differ".to_owned(),
            });
            None
        }
    };
    if let Some(policy) = policy
        && machine.has_agent
    {
        conditions.extend(objective_missed(machine, policy, now));
        conditions.extend(offline(machine, now));
    }
    Protection { policy, conditions }
}

/// What is to be known of a machine's points, whether a policy asks for them or not: somebody counts on those that are there.
pub(crate) fn damaged(machine: &MachineView<'_>, points: i64) -> Option<Condition> {
    let message = match points {
        ..=0 => return None,
        1 => "a point of it is damaged and does not restore".to_owned(),
        points => format!("{points} points of it are damaged and do not restore"),
    };
    let machine_is = unmistakable(machine);
    let check = format!(
        "`holdfast vault check --machine {machine_is} --read-data` tells what is damaged; delete the points that stay so"
    );
    let action = if machine.has_agent && machine.removed_at.is_none() {
        format!("`holdfast backup {machine_is}` makes a whole one; {check}")
    } else {
        check
    };
    Some(Condition { code: POINTS_DAMAGED, message, action })
}

/// Of a machine that has something which was not read since `since`, and is to be read once in each `period`.
pub(crate) fn verification_overdue(
    machine: &MachineView<'_>,
    since: DateTime<Utc>,
    period: Duration,
    now: DateTime<Utc>,
) -> Option<Condition> {
    if now - since <= TimeDelta::from_std(period).ok()? {
        return None;
    }
    Some(Condition {
        code: VERIFICATION_OVERDUE,
        message: format!(
            "not everything that its points need was read and compared since {}",
            since.to_rfc3339_opts(SecondsFormat::Secs, true)
        ),
        action: format!(
            "the controllers' logs say why, or `verify` is too short for so much data; `holdfast vault check --machine {} --read-data` \
             reads it now",
            unmistakable(machine)
        ),
    })
}

/// The name of one that was removed may be another one's.
fn unmistakable(machine: &MachineView<'_>) -> String {
    machine.removed_at.map_or_else(|| machine.name.to_owned(), |_| machine.id.to_string())
}

fn objective_missed(machine: &MachineView<'_>, policy: &Policy, now: DateTime<Utc>) -> Option<Condition> {
    let slot = policy.newest_due_objective(machine.labelled_at, now)?;
    if machine.served_until.is_some_and(|served| served >= slot) {
        return None;
    }
    let newest = machine.served_until.map_or_else(
        || "it has no point".to_owned(),
        |served| format!("its newest point is that of {}", served.to_rfc3339_opts(SecondsFormat::Secs, true)),
    );
    Some(Condition {
        code: "objective_missed",
        message: format!(
            "the backup of {} is not complete: {newest}",
            slot.to_rfc3339_opts(SecondsFormat::Secs, true)
        ),
        action: format!("see why: holdfast job list --machine {}", machine.name),
    })
}

fn offline(machine: &MachineView<'_>, now: DateTime<Utc>) -> Option<Condition> {
    let since = machine.last_seen_at.unwrap_or(machine.labelled_at);
    if machine.online || now - since < OFFLINE_AFTER {
        return None;
    }
    Some(Condition {
        code: "agent_offline",
        message: format!(
            "its agent was last heard of at {}",
            since.to_rfc3339_opts(SecondsFormat::Secs, true)
        ),
        action: "check that the machine runs and that its agent can reach the controller".to_owned(),
    })
}

#[cfg(test)]
mod tests;
