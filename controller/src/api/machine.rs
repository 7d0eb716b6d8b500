use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use holdfast_proto::v1::machine_service_server::MachineService;
use holdfast_proto::v1::{
    CreateEnrolmentTokenRequest, CreateEnrolmentTokenResponse, Disk, GetMachineRequest, ListMachinesRequest,
    ListMachinesResponse, Machine, MachineState,
};

use crate::app::App;
use crate::domain::name::is_label;
use crate::identity::sha256;
use crate::store::machine::MachineRow;
use crate::store::token::NewToken;

use super::error::{invalid, status_of};
use super::{caller, wire};

const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub(crate) struct MachineApi(pub(crate) Arc<App>);

#[tonic::async_trait]
impl MachineService for MachineApi {
    async fn list_machines(
        &self,
        request: Request<ListMachinesRequest>,
    ) -> Result<Response<ListMachinesResponse>, Status> {
        caller::reader(&request)?;
        let request = request.into_inner();
        let after = wire::page_after(&request.page_token, Some)?;
        let page = self
            .0
            .store
            .list_machines(after.as_deref(), wire::page_size(request.page_size)?)
            .await
            .map_err(|error| status_of(&error))?;
        let machines = page.rows.into_iter().map(to_wire).collect();
        Ok(Response::new(ListMachinesResponse { machines, next_page_token: page.next }))
    }

    async fn get_machine(&self, request: Request<GetMachineRequest>) -> Result<Response<Machine>, Status> {
        caller::reader(&request)?;
        let row =
            self.0.store.find_machine(&request.get_ref().machine).await.map_err(|error| status_of(&error))?;
        Ok(Response::new(to_wire(row)))
    }

    async fn create_enrolment_token(
        &self,
        request: Request<CreateEnrolmentTokenRequest>,
    ) -> Result<Response<CreateEnrolmentTokenResponse>, Status> {
        let operator = caller::admin(&request)?.name.clone();
        let request = request.into_inner();
        let max_uses = match request.max_uses {
            0 => 1,
            uses @ 1..=100_000 => uses,
            _ => return Err(invalid("invalid_max_uses", "max_uses must be 1 to 100000")),
        };
        let ttl = read_ttl(request.ttl)?;
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        if labels.len() > 64 || !labels.iter().all(|(key, value)| is_label(key, value)) {
            return Err(invalid(
                "invalid_label",
                "at most 64 labels; keys and values are at most 63 of [A-Za-z0-9._/-], and a key is not empty",
            ));
        }
        let token = format!("hft_{}", hex::encode(rand::random::<[u8; 32]>()));
        let new = NewToken { sha256: sha256(token.as_bytes()), max_uses, ttl, labels, created_by: operator };
        let expires_at = self.0.store.create_token(new).await.map_err(|error| status_of(&error))?;
        Ok(Response::new(CreateEnrolmentTokenResponse {
            token,
            expires_at: Some(wire::timestamp(expires_at)),
            ca_fingerprint: self.0.ca.fingerprint(),
        }))
    }
}

fn read_ttl(ttl: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let Some(ttl) = ttl else { return Ok(DEFAULT_TTL) };
    Duration::try_from(ttl)
        .ok()
        .filter(|ttl| *ttl >= Duration::from_secs(1) && *ttl <= MAX_TTL)
        .ok_or_else(|| invalid("invalid_ttl", "ttl must be 1 second to 30 days"))
}

fn to_wire(row: MachineRow) -> Machine {
    let state = match (&row.quarantine, row.online) {
        (Some(_), _) => MachineState::Quarantined,
        (None, true) => MachineState::Online,
        (None, false) => MachineState::Offline,
    };
    Machine {
        id: row.id.to_string(),
        name: row.name,
        state: state.into(),
        labels: row.labels.0.into_iter().collect(),
        disks: row
            .disks
            .0
            .into_iter()
            .map(|disk| Disk { name: disk.name, size_bytes: disk.size_bytes })
            .collect(),
        os: row.os,
        agent_version: row.agent_version,
        enrolled_at: Some(wire::timestamp(row.enrolled_at)),
        last_seen_at: row.last_seen_at.map(wire::timestamp),
        condition: row.quarantine.unwrap_or_default(),
    }
}
