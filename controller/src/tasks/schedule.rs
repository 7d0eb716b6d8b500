use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{debug, info, warn};
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use crate::app::App;
use crate::domain::policy::{Bound, Policy, bind};
use crate::store::StoreError;

/// Queues the backups that schedules want now. By the database's clock, so that controllers agree.
pub(super) async fn pass(app: Arc<App>) -> Result<(), StoreError> {
    let (policies, now) = app.store.policies().await?;
    for policy in policies.iter().filter(|policy| policy.is_ahead_of(now)) {
        warn!(policy = policy.name, until = %policy.evaluated_until, "the database's clock went back");
        app.store.restart_schedule(policy).await?;
    }
    let due: Vec<_> =
        policies.iter().filter_map(|policy| policy.due(now).map(|slot| (policy.clone(), slot))).collect();
    if due.is_empty() {
        return Ok(());
    }
    let mut bound = bound_machines(&app, &policies).await?;
    for (policy, slot) in due {
        let (name, machines) = (policy.name.clone(), bound.remove(&policy.id).unwrap_or_default());
        match app.store.schedule(policy, slot, machines).await? {
            Some(scheduled) => {
                info!(policy = name, %slot, queued = scheduled.queued, overlapped = scheduled.overlapped, "slot");
            }
            None => debug!(policy = name, %slot, "another controller was faster, or the policy was changed"),
        }
    }
    app.sessions.wake.notify_one();
    Ok(())
}

/// The machines that may be backed up, by the policy that they are under.
async fn bound_machines(
    app: &App,
    policies: &[Policy],
) -> Result<BTreeMap<Uuid, Vec<MachineId>>, StoreError> {
    let mut bound: BTreeMap<Uuid, Vec<MachineId>> = BTreeMap::new();
    for machine in app.store.fleet().await? {
        if machine.quarantine.is_none()
            && let Bound::One(policy) = bind(&machine.name, &machine.labels, policies)
        {
            bound.entry(policy.id).or_default().push(MachineId(machine.id));
        }
    }
    Ok(bound)
}
