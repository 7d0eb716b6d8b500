mod token;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tonic::{Code, Request, Response, Status};

use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::MachineId;
use holdfast_proto::v1::machine_service_server::MachineService;
use holdfast_proto::v1::{
    Condition, CreateEnrolmentTokenRequest, CreateEnrolmentTokenResponse, Disk, GetMachineRequest,
    LabelMachineRequest, LiftQuarantineRequest, ListEnrolmentTokensRequest, ListEnrolmentTokensResponse,
    ListMachinesRequest, ListMachinesResponse, Machine, MachineState, RemoveMachineRequest,
    RevokeEnrolmentTokenRequest, RevokeEnrolmentTokenResponse,
};

use crate::app::App;
use crate::domain::condition::{Protection, damaged, protection, verification_overdue};
use crate::domain::name::is_label;
use crate::domain::policy::Policy;
use crate::identity::revoked;
use crate::store::machine::{LabelChange, MAX_LABELS, MachineRow, Shown, parse_name_key};

use super::{caller, wire};

#[derive(Clone, Debug)]
pub(crate) struct MachineApi(pub(crate) Arc<App>);

#[tonic::async_trait]
impl MachineService for MachineApi {
    async fn list_machines(
        &self,
        request: Request<ListMachinesRequest>,
    ) -> Result<Response<ListMachinesResponse>, Status> {
        let request = caller::reader(request)?;
        let after = wire::page_after(&request.page_token, |key| parse_name_key(&key))?;
        let shown = if request.show_removed { Shown::All } else { Shown::Living };
        let page = self.0.store.list_machines(shown, after, wire::page_size(request.page_size)?).await?;
        let (policies, now) = self.0.store.policies().await?;
        let verify = self.0.timing.verify;
        let (machines, next_page_token) = wire::fitting(page, |row| to_wire(row, &policies, now, verify));
        Ok(Response::new(ListMachinesResponse { machines, next_page_token }))
    }

    async fn get_machine(&self, request: Request<GetMachineRequest>) -> Result<Response<Machine>, Status> {
        let request = caller::reader(request)?;
        self.read(&request.machine).await.map(Response::new)
    }

    async fn label_machine(
        &self,
        request: Request<LabelMachineRequest>,
    ) -> Result<Response<Machine>, Status> {
        let (operator, LabelMachineRequest { machine, set, remove }) = caller::admin(request)?;
        let set = check_labels(set)?;
        let row = self.0.store.find_machine(&machine).await?.living()?;
        self.0.store.label_machine(MachineId(row.facts.id), LabelChange { set, remove }, &operator).await?;
        self.read(&row.facts.id.to_string()).await.map(Response::new)
    }

    async fn lift_quarantine(
        &self,
        request: Request<LiftQuarantineRequest>,
    ) -> Result<Response<Machine>, Status> {
        let (operator, request) = caller::admin(request)?;
        let store = &self.0.store;
        let row = store.find_machine(&request.machine).await?.living()?;
        store.lift_quarantine(MachineId(row.facts.id), &operator).await?;
        self.read(&row.facts.id.to_string()).await.map(Response::new)
    }

    async fn remove_machine(
        &self,
        request: Request<RemoveMachineRequest>,
    ) -> Result<Response<Machine>, Status> {
        let (operator, request) = caller::admin(request)?;
        let row = self.0.store.find_machine(&request.machine).await?;
        let machine = MachineId(row.facts.id);
        self.0.store.remove_machine(machine, &operator).await?;
        for live in self.0.sessions.of_machine(machine) {
            live.close(revoked(live.agent));
        }
        self.read(&machine.to_string()).await.map(Response::new)
    }

    async fn create_enrolment_token(
        &self,
        request: Request<CreateEnrolmentTokenRequest>,
    ) -> Result<Response<CreateEnrolmentTokenResponse>, Status> {
        let (operator, request) = caller::admin(request)?;
        token::create(&self.0, operator, request).await.map(Response::new)
    }

    async fn list_enrolment_tokens(
        &self,
        request: Request<ListEnrolmentTokensRequest>,
    ) -> Result<Response<ListEnrolmentTokensResponse>, Status> {
        let (_, request) = caller::admin(request)?;
        token::list(&self.0, &request).await.map(Response::new)
    }

    async fn revoke_enrolment_token(
        &self,
        request: Request<RevokeEnrolmentTokenRequest>,
    ) -> Result<Response<RevokeEnrolmentTokenResponse>, Status> {
        let (operator, request) = caller::admin(request)?;
        token::revoke(&self.0, &operator, &request.token).await.map(Response::new)
    }
}

impl MachineApi {
    async fn read(&self, name_or_id: &str) -> Result<Machine, Status> {
        let row = self.0.store.find_machine(name_or_id).await?;
        let (policies, now) = self.0.store.policies().await?;
        Ok(to_wire(row, &policies, now, self.0.timing.verify))
    }
}

fn check_labels(labels: HashMap<String, String>) -> Result<BTreeMap<String, String>, Status> {
    if labels.len() > MAX_LABELS || !labels.iter().all(|(key, value)| is_label(key, value)) {
        return Err(user_error(
            "invalid_label",
            "a label has characters or a length that labels do not have",
        )
        .action("use at most 63 of [A-Za-z0-9._/-] for keys and values, and at most 64 labels")
        .into_status(Code::InvalidArgument));
    }
    Ok(labels.into_iter().collect())
}

/// `verify`: within so long everything is to be read.
fn to_wire(row: MachineRow, policies: &[Policy], now: DateTime<Utc>, verify: Duration) -> Machine {
    let Protection { policy, conditions } = protection(&row.view(), policies, now);
    let damage = damaged(&row.view(), row.damaged_points);
    let overdue =
        row.unverified_since.and_then(|since| verification_overdue(&row.view(), since, verify, now));
    let next_slot =
        policy.and_then(|policy| policy.spec.schedule.next_after(now.max(policy.evaluated_until)));
    let policy = policy.map(|policy| policy.name.clone()).unwrap_or_default();
    let state = match (row.removed_at, &row.facts.quarantine, row.facts.online) {
        (Some(_), _, _) => MachineState::Removed,
        (None, Some(_), _) => MachineState::Quarantined,
        (None, None, true) => MachineState::Online,
        (None, None, false) => MachineState::Offline,
    };
    Machine {
        id: row.facts.id.to_string(),
        name: row.facts.name,
        state: state.into(),
        labels: row.facts.labels.0.into_iter().collect(),
        disks: row
            .disks
            .0
            .into_iter()
            .map(|disk| Disk { name: disk.name, size_bytes: disk.size_bytes })
            .collect(),
        os: row.os,
        agent_version: row.agent_version,
        enrolled_at: Some(wire::timestamp(row.enrolled_at)),
        last_seen_at: row.facts.last_seen_at.map(wire::timestamp),
        removed_at: row.removed_at.map(wire::timestamp),
        verified_at: row.verified_at.map(wire::timestamp),
        policy,
        next_slot: next_slot.map(wire::timestamp),
        last_point_at: row.facts.last_point_at.map(wire::timestamp),
        conditions: conditions
            .into_iter()
            .chain(damage)
            .chain(overdue)
            .map(|condition| Condition {
                code: condition.code.to_owned(),
                message: condition.message,
                action: condition.action,
            })
            .collect(),
    }
}
