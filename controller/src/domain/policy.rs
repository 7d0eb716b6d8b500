//! Policies: when backups of which machines are wanted. Pure.

mod binding;
mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::job::Consistency;
use super::retention::Retention;
use super::schedule::Schedule;

pub(crate) use binding::{Bound, UnreadablePolicy, bind, is_bound_alike};
pub(crate) use document::{PolicyDocument, PolicyError, RetentionDocument, ScheduleDocument, target_of};

/// A policy that was checked, with what the catalogue says of it.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) revision: i64,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
    /// Since when its target and schedule are as they are.
    pub(crate) wanted_since: DateTime<Utc>,
    /// Slots up to here had their jobs.
    pub(crate) evaluated_until: DateTime<Utc>,
    pub(crate) document: PolicyDocument,
    pub(crate) spec: PolicySpec,
}

/// What a policy wants.
#[derive(Clone, Debug)]
pub(crate) struct PolicySpec {
    pub(crate) target: Target,
    pub(crate) schedule: Schedule,
    /// The least that is acceptable.
    pub(crate) minimum: Consistency,
    /// From the slot to the end of its backup.
    pub(crate) complete_within: Duration,
    /// Empty: all disks.
    pub(crate) disks: Vec<String>,
    pub(crate) retention: Retention,
}

/// Which machines a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Those that have all of these labels; at least one.
    Labels(BTreeMap<String, String>),
    Names(BTreeSet<String>),
}

/// All policies at one time.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    pub(crate) readable: Vec<Policy>,
    pub(crate) unreadable: Vec<UnreadablePolicy>,
    pub(crate) now: DateTime<Utc>,
}

/// See [`Policy::etag`].
pub(crate) fn etag(id: Uuid, revision: i64) -> String {
    format!("{}-{revision}", id.simple())
}

impl Policy {
    /// Changes with each change, also if the policy is deleted and made again.
    pub(crate) fn etag(&self) -> String {
        etag(self.id, self.revision)
    }

    /// The slot that is due now: of those that were missed, the newest one.
    pub(crate) fn due(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.spec.schedule.newest_between(self.evaluated_until, now)
    }

    /// The clock went back behind the newest slot: it must be evaluated from `now` on, or nothing would run until the clock is
    /// there again. What runs twice for that makes no second job.
    pub(crate) fn is_ahead_of(&self, now: DateTime<Utc>) -> bool {
        self.evaluated_until > now
    }

    /// The newest slot whose backup should be complete by now, if it was wanted at all: after `since`.
    pub(crate) fn newest_due_objective(
        &self,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let until = now.checked_sub_signed(chrono::TimeDelta::from_std(self.spec.complete_within).ok()?)?;
        self.spec.schedule.newest_between(since.max(self.wanted_since), until)
    }
}

#[cfg(test)]
mod tests;
