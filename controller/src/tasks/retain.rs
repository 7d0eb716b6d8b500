use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};
use uuid::Uuid;

use holdfast_gateway::{CataloguedPoint, Decision};
use holdfast_proto::ids::MachineId;

use crate::domain::policy::{Bound, Policies, bind};
use crate::domain::retention::Candidate;
use crate::rpc_error::is_unavailable;
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
/// that match, or without an agent keep all; so do locked points, and those that are damaged.
pub(super) async fn pass(upkeep: Arc<Upkeep>) -> Result<(), StoreError> {
    let Upkeep { app, gateway, .. } = &*upkeep;
    let delete = |point: CataloguedPoint, actor: String| async move {
        gateway.decide_point(point, Decision::Delete, &actor).await.map_err(|status| Refused {
            reason: status.message().to_owned(),
            is_out_of_reach: is_unavailable(&status),
        })
    };
    retain(&app.store, delete).await
}

async fn retain<F>(store: &Store, delete: impl Fn(CataloguedPoint, String) -> F) -> Result<(), StoreError>
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
        if policy.spec.retention.keeps_all() {
            continue;
        }
        let machine_id = MachineId(machine.id);
        let read = answer("list a machine's points", store.retained_points(machine_id)).await;
        let Some(points) = go_on("read the points of", &machine.name, read)? else { continue };
        let by_id: BTreeMap<Uuid, _> = points.iter().map(|point| (point.id, point)).collect();
        let candidates: Vec<_> = points
            .iter()
            .map(|point| Candidate {
                at: point.serves_until,
                point: point.id,
                disks: &point.disk_names,
                is_whole: point.is_whole,
            })
            .collect();
        for id in policy.spec.retention.expired(&candidates) {
            let Some(point) = by_id.get(&id).filter(|point| !point.is_locked) else { continue };
            // Whoever was told that the machine is removed may count on what it has.
            let looked = answer("look at a machine again", store.retention_applies(machine_id)).await;
            if go_on("look again at", &machine.name, looked)? != Some(true) {
                break;
            }
            match delete(point.catalogued(), format!("policy {}", policy.name)).await {
                Ok(()) => {
                    info!(point = %id, machine = machine.name, policy = policy.name, "a point is not kept any more")
                }
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

#[cfg(test)]
mod tests;
