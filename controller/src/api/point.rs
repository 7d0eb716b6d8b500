use std::sync::Arc;

use chrono::{DateTime, Utc};
use prost::Message as _;
use tonic::{Request, Response, Status};

use holdfast_gateway::{Decision, Gateway};
use holdfast_proto::ids::PointId;
use holdfast_proto::v1::point_service_server::PointService;
use holdfast_proto::v1::{
    self, DeletePointRequest, GetPointRequest, ListPointsRequest, ListPointsResponse, LockPointRequest,
    Point, PointDisk, PointLock, UndeletePointRequest, UnlockPointRequest,
};
use holdfast_vault_engine as vault;

use crate::app::App;
use crate::domain::point::{LockMode, PointState};
use crate::rpc_error::invalid;
use crate::store::page::parse_time_key;
use crate::store::point::{PointRow, Shown};
use crate::store::request::RequestKey;

use super::{caller, wire};

#[derive(Clone, Debug)]
pub(crate) struct PointApi {
    pub(crate) app: Arc<App>,
    pub(crate) gateway: Gateway,
}

#[tonic::async_trait]
impl PointService for PointApi {
    async fn list_points(
        &self,
        request: Request<ListPointsRequest>,
    ) -> Result<Response<ListPointsResponse>, Status> {
        let request = caller::reader(request)?;
        let store = &self.app.store;
        let machine = match request.machine.as_str() {
            "" => None,
            name => Some(store.find_machine(name).await?.facts.id),
        };
        let before = wire::page_after(&request.page_token, |key| parse_time_key(&key))?;
        let shown = if request.show_deleted { Shown::WithDeleted } else { Shown::Kept };
        let page = store.list_points(machine, shown, before, wire::page_size(request.page_size)?).await?;
        let (points, next_page_token) = wire::fitting(page, to_wire);
        Ok(Response::new(ListPointsResponse { points, next_page_token }))
    }

    async fn get_point(&self, request: Request<GetPointRequest>) -> Result<Response<Point>, Status> {
        let request = caller::reader(request)?;
        let row = self.app.store.resolve_point(&request.point).await?;
        Ok(Response::new(to_wire(row)))
    }

    async fn delete_point(&self, request: Request<DeletePointRequest>) -> Result<Response<Point>, Status> {
        let (operator, request) = caller::admin(request)?;
        let body = DeletePointRequest { request_id: String::new(), ..request.clone() }.encode_to_vec();
        let key = wire::request_key(&request.request_id, "DeletePoint", &body)?;
        self.decide(&request.point, Decision::Delete, key, &operator).await
    }

    async fn undelete_point(
        &self,
        request: Request<UndeletePointRequest>,
    ) -> Result<Response<Point>, Status> {
        let (operator, request) = caller::admin(request)?;
        let body = UndeletePointRequest { request_id: String::new(), ..request.clone() }.encode_to_vec();
        let key = wire::request_key(&request.request_id, "UndeletePoint", &body)?;
        self.decide(&request.point, Decision::Undelete, key, &operator).await
    }

    async fn lock_point(&self, request: Request<LockPointRequest>) -> Result<Response<Point>, Status> {
        let (operator, request) = caller::admin(request)?;
        let body = LockPointRequest { request_id: String::new(), ..request.clone() }.encode_to_vec();
        let key = wire::request_key(&request.request_id, "LockPoint", &body)?;
        let mode = match request.mode() {
            v1::LockMode::Governance => vault::LockMode::Governance,
            v1::LockMode::Compliance => vault::LockMode::Compliance,
            v1::LockMode::Unspecified => {
                return Err(invalid("invalid_lock", "mode must be governance or compliance"));
            }
        };
        let until = request
            .until
            .and_then(|until| DateTime::from_timestamp(until.seconds, 0))
            .ok_or_else(|| invalid("invalid_lock", "until must be an instant"))?;
        self.decide(&request.point, Decision::Lock { mode, until }, key, &operator).await
    }

    async fn unlock_point(&self, request: Request<UnlockPointRequest>) -> Result<Response<Point>, Status> {
        let (operator, request) = caller::admin(request)?;
        let body = UnlockPointRequest { request_id: String::new(), ..request.clone() }.encode_to_vec();
        let key = wire::request_key(&request.request_id, "UnlockPoint", &body)?;
        self.decide(&request.point, Decision::Unlock, key, &operator).await
    }
}

impl PointApi {
    async fn decide(
        &self,
        spec: &str,
        decision: Decision,
        key: Option<RequestKey>,
        operator: &str,
    ) -> Result<Response<Point>, Status> {
        let store = &self.app.store;
        // `@latest` may be another point by the time of a repetition.
        let id = match store.repeated_request(key).await? {
            // Somebody may have decided otherwise since.
            Some(first) if first.is_done => {
                let row = store.find_point(PointId(first.resource)).await?;
                return Ok(Response::new(to_wire(row)));
            }
            Some(first) => first.resource,
            None => store.claim_request(key, store.resolve_point(spec).await?.id).await?,
        };
        let point = store.find_point(PointId(id)).await?;
        self.gateway.decide_point(point.catalogued(), decision, operator).await?;
        store.finish_request(key).await?;
        let row = store.find_point(PointId(point.id)).await?;
        Ok(Response::new(to_wire(row)))
    }
}

fn to_wire(row: PointRow) -> Point {
    let state = match row.state {
        PointState::Listed => v1::PointState::Listed,
        PointState::Damaged => v1::PointState::Damaged,
        PointState::SoftDeleted => v1::PointState::SoftDeleted,
        // Never shown.
        PointState::Purged => v1::PointState::Unspecified,
    };
    let disks = row.disks.0.into_iter().map(|disk| PointDisk {
        name: disk.name,
        size_bytes: disk.size_bytes,
        read_bytes: disk.read_bytes,
        changed_bytes: disk.changed_bytes,
        sent_bytes: disk.sent_bytes,
        stored_bytes: disk.stored_bytes,
    });
    Point {
        id: row.id.to_string(),
        machine_id: row.machine_id.to_string(),
        machine_name: row.machine_name,
        created_at: Some(wire::timestamp(row.created_at)),
        consistency: wire::consistency(row.consistency).into(),
        state: state.into(),
        disks: disks.collect(),
        deleted_at: row.deleted_at.map(wire::timestamp),
        purge_after: row.purge_after.map(wire::timestamp),
        lock: row.lock_mode.zip(row.locked_until).map(lock_to_wire),
        retention: row.retained_mode.zip(row.retained_until).map(lock_to_wire),
    }
}

fn lock_to_wire((mode, until): (LockMode, DateTime<Utc>)) -> PointLock {
    let mode = match mode {
        LockMode::Governance => v1::LockMode::Governance,
        LockMode::Compliance => v1::LockMode::Compliance,
    };
    PointLock { mode: mode.into(), until: Some(wire::timestamp(until)) }
}
