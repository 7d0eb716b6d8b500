use std::sync::Arc;

use chrono::{DateTime, Utc};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::v1::policy_service_server::PolicyService;
use holdfast_proto::v1::{
    self, ApplyOutcome, ApplyPolicyRequest, ApplyPolicyResponse, DeletePolicyRequest, DeletePolicyResponse,
    GetPolicyRequest, ListPoliciesRequest, ListPoliciesResponse, PolicySpec, PreviewPolicyRequest,
    PreviewPolicyResponse,
};

use crate::app::App;
use crate::domain::policy::{
    Bound, Policy, PolicyDocument, PolicyError, RetentionDocument, ScheduleDocument, bind,
};
use crate::store::StoreError;
use crate::store::page;
use crate::store::policy::{Applied, NewPolicy};

use super::{caller, wire};
use crate::rpc_error::invalid;

/// Names of machines in one answer.
const MAX_NAMES: usize = 1000;

#[derive(Clone, Debug)]
pub(crate) struct PolicyApi(pub(crate) Arc<App>);

#[tonic::async_trait]
impl PolicyService for PolicyApi {
    async fn apply_policy(
        &self,
        request: Request<ApplyPolicyRequest>,
    ) -> Result<Response<ApplyPolicyResponse>, Status> {
        let (operator, ApplyPolicyRequest { name, spec, etag, validate_only }) = caller::admin(request)?;
        let document = from_wire(spec.unwrap_or_default())?.with_defaults();
        let spec = document.check(&name).map_err(|error| invalid_policy(&error))?;
        let etag = (!etag.is_empty()).then_some(etag);
        let store = &self.0.store;
        let outcome = if validate_only {
            self.would_apply(&name, &document, etag.as_deref()).await?
        } else {
            let new = NewPolicy { name: name.clone(), document: document.clone(), etag, operator };
            store.apply_policy(new).await?
        };
        let (mut policies, now) = store.policies().await?;
        if validate_only {
            let proposed = policies.iter().find(|policy| policy.name == name).cloned();
            let proposed = match (proposed, outcome) {
                (Some(policy), Applied::Unchanged) => policy,
                (Some(policy), _) => {
                    Policy { revision: policy.revision + 1, updated_at: now, document, spec, ..policy }
                }
                (None, _) => Policy {
                    id: Uuid::nil(),
                    name: name.clone(),
                    revision: 1,
                    created_at: now,
                    updated_at: now,
                    wanted_since: now,
                    evaluated_until: now,
                    document,
                    spec,
                },
            };
            policies.retain(|policy| policy.name != name);
            policies.push(proposed);
        }
        let Some(policy) = policies.iter().find(|policy| policy.name == name) else {
            return Err(StoreError::NotFound { noun: "policy", name }.into());
        };
        let (machines, conflicts) = self.reach(policy, &policies).await?;
        let outcome = match outcome {
            Applied::Created => ApplyOutcome::Created,
            Applied::Updated => ApplyOutcome::Updated,
            Applied::Unchanged => ApplyOutcome::Unchanged,
        };
        let policy = Some(to_wire(policy, now));
        Ok(Response::new(ApplyPolicyResponse { policy, outcome: outcome.into(), machines, conflicts }))
    }

    async fn get_policy(&self, request: Request<GetPolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        let request = caller::reader(request)?;
        let policy = self.0.store.find_policy(&request.name).await?;
        Ok(Response::new(to_wire(&policy, Utc::now())))
    }

    async fn list_policies(
        &self,
        request: Request<ListPoliciesRequest>,
    ) -> Result<Response<ListPoliciesResponse>, Status> {
        let request = caller::reader(request)?;
        let after = wire::page_after(&request.page_token, Some)?;
        let size = wire::page_size(request.page_size)?;
        let (page, mut unreadable) = self.0.store.list_policies(after.as_deref(), size).await?;
        let now = Utc::now();
        let (policies, next_page_token) = wire::fitting(page, |policy| to_wire(&policy, now));
        // Those that come later are the next page's.
        if let Some(last) = page::decode(&next_page_token).flatten() {
            unreadable.retain(|name| *name <= last);
        }
        Ok(Response::new(ListPoliciesResponse { policies, next_page_token, unreadable }))
    }

    async fn delete_policy(
        &self,
        request: Request<DeletePolicyRequest>,
    ) -> Result<Response<DeletePolicyResponse>, Status> {
        let (operator, DeletePolicyRequest { name, etag }) = caller::admin(request)?;
        let etag = (!etag.is_empty()).then_some(etag);
        self.0.store.delete_policy(&name, etag, &operator).await?;
        Ok(Response::new(DeletePolicyResponse {}))
    }

    async fn preview_policy(
        &self,
        request: Request<PreviewPolicyRequest>,
    ) -> Result<Response<PreviewPolicyResponse>, Status> {
        let PreviewPolicyRequest { name, slots } = caller::reader(request)?;
        let slots = match slots {
            0 => 10,
            1..=100 => usize::try_from(slots).unwrap_or(10),
            _ => return Err(invalid("invalid_slots", "slots must be 1 to 100")),
        };
        let (policies, now) = self.0.store.policies().await?;
        let Some(policy) = policies.iter().find(|policy| policy.name == name) else {
            return Err(StoreError::NotFound { noun: "policy", name }.into());
        };
        let (machines, conflicts) = self.reach(policy, &policies).await?;
        let slots = policy.spec.schedule.preview(now, slots).into_iter().map(wire::timestamp).collect();
        Ok(Response::new(PreviewPolicyResponse { slots, machines, conflicts }))
    }
}

impl PolicyApi {
    async fn would_apply(
        &self,
        name: &str,
        document: &PolicyDocument,
        etag: Option<&str>,
    ) -> Result<Applied, Status> {
        let current = match self.0.store.find_policy(name).await {
            Ok(policy) => Some(policy),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if current.as_ref().is_some_and(|policy| policy.document == *document) {
            return Ok(Applied::Unchanged);
        }
        let fits = etag.is_none_or(|etag| current.as_ref().is_some_and(|policy| policy.etag() == etag));
        if !fits {
            return Err(StoreError::PolicyChanged { name: name.to_owned() }.into());
        }
        Ok(if current.is_some() { Applied::Updated } else { Applied::Created })
    }

    /// Names of the machines that a policy protects, and of those that it would if another one did not claim them as well.
    async fn reach(
        &self,
        policy: &Policy,
        policies: &[Policy],
    ) -> Result<(Vec<String>, Vec<String>), Status> {
        let (mut machines, mut conflicts) = (Vec::new(), Vec::new());
        for machine in self.0.store.fleet().await? {
            match bind(&machine.name, &machine.labels, policies) {
                Bound::One(bound) if bound.name == policy.name => machines.push(machine.name),
                Bound::Tie(names) if names.contains(&policy.name.as_str()) => conflicts.push(machine.name),
                _ => {}
            }
        }
        machines.truncate(MAX_NAMES);
        conflicts.truncate(MAX_NAMES);
        Ok((machines, conflicts))
    }
}

fn invalid_policy(error: &PolicyError) -> Status {
    user_error("invalid_policy", error.to_string())
        .action("correct that field; `holdfast policy apply --dry-run` checks without changing anything")
        .into_status(tonic::Code::InvalidArgument)
}

fn from_wire(spec: PolicySpec) -> Result<PolicyDocument, Status> {
    let minimum_consistency = match v1::Consistency::try_from(spec.minimum_consistency) {
        Ok(v1::Consistency::Unspecified) => String::new(),
        Ok(v1::Consistency::Application) => "application".to_owned(),
        Ok(v1::Consistency::FileSystem) => "file_system".to_owned(),
        Ok(v1::Consistency::Crash) => "crash".to_owned(),
        Err(_) => {
            return Err(invalid_policy(&PolicyError::Consistency(spec.minimum_consistency.to_string())));
        }
    };
    let schedule = spec.schedule.unwrap_or_default();
    let retention = spec.retention.unwrap_or_default();
    Ok(PolicyDocument {
        selector: spec.selector.into_iter().collect(),
        machines: spec.machines,
        schedule: ScheduleDocument {
            cron: schedule.cron,
            time_zone: schedule.time_zone,
            every: schedule.every,
        },
        retention: RetentionDocument {
            last: retention.last,
            daily: retention.daily,
            weekly: retention.weekly,
            monthly: retention.monthly,
            yearly: retention.yearly,
        },
        minimum_consistency,
        complete_within: spec.complete_within,
        disks: spec.disks,
    })
}

fn to_wire(policy: &Policy, now: DateTime<Utc>) -> v1::Policy {
    let document = policy.document.clone();
    let spec = PolicySpec {
        selector: document.selector.into_iter().collect(),
        machines: document.machines,
        schedule: Some(v1::Schedule {
            cron: document.schedule.cron,
            time_zone: document.schedule.time_zone,
            every: document.schedule.every,
        }),
        retention: Some(v1::Retention {
            last: document.retention.last,
            daily: document.retention.daily,
            weekly: document.retention.weekly,
            monthly: document.retention.monthly,
            yearly: document.retention.yearly,
        }),
        minimum_consistency: wire::consistency(policy.spec.minimum).into(),
        complete_within: document.complete_within,
        disks: document.disks,
    };
    v1::Policy {
        id: policy.id.to_string(),
        name: policy.name.clone(),
        spec: Some(spec),
        revision: policy.revision,
        etag: policy.etag(),
        created_at: Some(wire::timestamp(policy.created_at)),
        updated_at: Some(wire::timestamp(policy.updated_at)),
        next_slot: policy.spec.schedule.next_after(now.max(policy.evaluated_until)).map(wire::timestamp),
    }
}
