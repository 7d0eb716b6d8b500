use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use uuid::Uuid;

use holdfast_gateway::{CataloguedPoint, Decision};
use holdfast_proto::ids::MachineId;

use crate::domain::policy::{Bound, Policies, Policy, bind};
use crate::domain::retention::Candidate;
use crate::rpc_error::is_unavailable;
use crate::store::point::RetainedRow;
use crate::store::{Store, StoreError};

use super::{Upkeep, answer, go_on};

/// So many machines of which nothing could be deleted since nothing answered: the others are left for the next pass.
const ENOUGH: usize = 3;

/// Why a point is not deleted.
#[derive(Debug)]
struct Refused {
    reason: String,
    /// Without vault or database the others would be refused as well.
    is_out_of_reach: bool,
}

/// Deletes the points that their machine's policy does not keep any more, softly. Machines without a policy, with several
/// that match, or without an agent keep all. Locked and damaged points stay, and for a while those that were undeleted.
pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let Upkeep { app, gateway, retention, .. } = &*upkeep;
    let delete = |point: CataloguedPoint, actor: String| async move {
        gateway.decide_point(point, Decision::Delete, &actor).await.map_err(|status| Refused {
            reason: status.message().to_owned(),
            is_out_of_reach: is_unavailable(&status),
        })
    };
    retain(&app.store, retention.window, delete).await
}

/// `window`: for so long points stay that somebody undeleted.
async fn retain<F>(
    store: &Store,
    window: Duration,
    delete: impl Fn(CataloguedPoint, String) -> F,
) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), Refused>>,
{
    let Policies { readable: policies, unreadable, .. } =
        answer("read the policies", store.all_policies()).await?;
    // Of whatever machine: what it keeps, and of which ones, nobody knows here.
    if !unreadable.is_empty() {
        let names: Vec<&str> = unreadable.iter().map(|policy| policy.name.as_str()).collect();
        warn!(policies = ?names, "no point is deleted by retention while a policy cannot be read");
        return Ok(());
    }
    if policies.iter().all(|policy| policy.spec.retention.keeps_all()) {
        return Ok(());
    }
    let mut out_of_reach = 0;
    for machine in answer("read the fleet", store.fleet()).await? {
        // One machine's objects alone may not answer; of several it is the vault or the database.
        if out_of_reach == ENOUGH {
            return Ok(());
        }
        let Bound::One(policy) = bind(&machine.name, &machine.labels, &policies) else { continue };
        let machine_id = MachineId(machine.id);
        let read = answer("list a machine's points", not_kept(store, machine_id, policy, window)).await;
        if go_on("read the points of", &machine.name, read)?.is_none_or(|points| points.is_empty()) {
            continue;
        }
        let mut tried = HashSet::new();
        // Until the next one is deleted hours may have passed, and whoever was told meanwhile of another policy or label, or that the
        // machine is removed, counts on that; and what was kept may be damaged.
        loop {
            let looked = answer("look at a machine again", not_kept_now(store, machine_id, window)).await;
            let Some(Some((policy, points))) = go_on("look again at", &machine.name, looked)? else { break };
            let Some(point) = points.iter().find(|point| tried.insert(point.id)) else { break };
            let id = point.id;
            match delete(point.catalogued(), format!("policy {policy}")).await {
                Ok(()) => info!(point = %id, machine = machine.name, policy, "a point is not kept any more"),
                Err(Refused { reason, is_out_of_reach }) => {
                    warn!(point = %id, reason, "a point is not deleted; the next pass tries again");
                    if is_out_of_reach {
                        out_of_reach += 1;
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The points of a machine that this policy does not keep, and that may be deleted.
async fn not_kept(
    store: &Store,
    machine: MachineId,
    policy: &Policy,
    window: Duration,
) -> Result<Vec<RetainedRow>, StoreError> {
    let retention = &policy.spec.retention;
    if retention.keeps_all() {
        return Ok(Vec::new());
    }
    let mut points = store.retained_points(machine, window).await?;
    let candidates: Vec<_> = points
        .iter()
        .map(|point| Candidate {
            at: point.serves_until,
            point: point.id,
            disks: &point.disk_names,
            is_whole: point.is_whole,
        })
        .collect();
    let expired: HashSet<Uuid> = retention.expired(&candidates).into_iter().collect();
    points.retain(|point| expired.contains(&point.id) && !point.is_spared);
    Ok(points)
}

/// The same by all that is so now, with the name of the policy. `None`: no policy decides about the machine's points.
async fn not_kept_now(
    store: &Store,
    machine: MachineId,
    window: Duration,
) -> Result<Option<(String, Vec<RetainedRow>)>, StoreError> {
    let Policies { readable, unreadable, .. } = store.all_policies().await?;
    let Some((name, labels)) = store.retained_machine(machine).await?.filter(|_| unreadable.is_empty())
    else {
        return Ok(None);
    };
    let Bound::One(policy) = bind(&name, &labels, &readable) else { return Ok(None) };
    Ok(Some((policy.name.clone(), not_kept(store, machine, policy, window).await?)))
}

#[cfg(test)]
mod tests;
