use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tracing::{debug, info, warn};
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use crate::app::App;
use crate::domain::policy::{Bound, Policies, bind};
use crate::store::machine::FleetRow;
use crate::store::{Store, StoreError};

use super::go_on;

/// The fleet is read after the time: what was labelled in between is no clock that went back.
const READS_APART: TimeDelta = TimeDelta::minutes(1);

/// Queues the backups that schedules want now. By the database's clock, so that controllers agree.
pub(super) async fn pass(app: Arc<App>) -> Result<(), StoreError> {
    if queue_due(&app.store).await? {
        app.sessions.wake();
    }
    Ok(())
}

/// Answers whether any slot was due. A policy that fails is tried again in the next pass; the others do not wait for it.
async fn queue_due(store: &Store) -> Result<bool, StoreError> {
    let policies = store.all_policies().await?;
    let now = policies.now;
    for policy in policies.readable.iter().filter(|policy| policy.is_ahead_of(now)) {
        warn!(policy = policy.name, until = %policy.evaluated_until, "the database's clock went back");
        go_on("restart a schedule", &policy.name, store.restart_schedule(policy).await)?;
    }
    let due: Vec<_> = policies
        .readable
        .iter()
        .filter_map(|policy| policy.due(now).map(|slot| (policy.clone(), slot)))
        .collect();
    if due.is_empty() {
        return Ok(false);
    }
    let fleet = store.fleet().await?;
    let mut bound = bound(&fleet, &policies);
    for (policy, slot) in due {
        let name = policy.name.clone();
        let machines = bound.remove(&policy.id).unwrap_or_default();
        let machines = machines.into_iter().filter(|machine| was_bound_at(machine, slot, now));
        let machines = machines.map(|machine| MachineId(machine.id)).collect();
        match go_on("queue a slot", &name, store.schedule(policy, slot, machines).await)? {
            Some(Some(scheduled)) => {
                info!(policy = name, %slot, queued = scheduled.queued, overlapped = scheduled.overlapped, "slot");
            }
            Some(None) => {
                debug!(policy = name, %slot, "another controller was faster, or the policy was changed")
            }
            None => {}
        }
    }
    Ok(true)
}

/// The machines that may be backed up, by the policy that they are under.
///
/// A machine that a policy which cannot be read names or selects is left to whoever can read it, such as a controller of a newer version.
/// If not even that can be read of it, the others go on: a backup by a policy that is not the machine's does less harm than none, as long
/// as nothing is deleted by it, which `retain` sees to.
fn bound<'f>(fleet: &'f [FleetRow], policies: &Policies) -> BTreeMap<Uuid, Vec<&'f FleetRow>> {
    let mut bound: BTreeMap<Uuid, Vec<&FleetRow>> = BTreeMap::new();
    for machine in fleet.iter().filter(|machine| machine.has_agent && machine.quarantine.is_none()) {
        if let Bound::One(policy) = bind(&machine.name, &machine.labels, &policies.readable)
            && !policies.unreadable.iter().any(|other| other.contests(&machine.name, &machine.labels, policy))
        {
            bound.entry(policy.id).or_default().push(machine);
        }
    }
    bound
}

/// Whether a machine had its labels at `slot` already; one that was enrolled or labelled later waits for the next slot. What is
/// in the future was written by a clock that went back, and says nothing.
fn was_bound_at(machine: &FleetRow, slot: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    machine.labelled_at < slot || machine.labelled_at > now + READS_APART
}

#[cfg(test)]
mod tests;
