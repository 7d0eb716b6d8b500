use std::sync::Arc;

use tonic::{Request, Response, Status};

use holdfast_proto::v1::point_service_server::PointService;
use holdfast_proto::v1::{
    GetPointRequest, ListPointsRequest, ListPointsResponse, Point, PointDisk, PointState,
};

use crate::app::App;
use crate::store::page::parse_time_key;
use crate::store::point::PointRow;

use super::{caller, wire};

#[derive(Clone, Debug)]
pub(crate) struct PointApi(pub(crate) Arc<App>);

#[tonic::async_trait]
impl PointService for PointApi {
    async fn list_points(
        &self,
        request: Request<ListPointsRequest>,
    ) -> Result<Response<ListPointsResponse>, Status> {
        caller::reader(&request)?;
        let request = request.into_inner();
        let store = &self.0.store;
        let machine = match request.machine.as_str() {
            "" => None,
            name => Some(store.find_machine(name).await?.facts.id),
        };
        let before = wire::page_after(&request.page_token, |key| parse_time_key(&key))?;
        let page = store.list_points(machine, before, wire::page_size(request.page_size)?).await?;
        let (points, next_page_token) = wire::fitting(page, to_wire);
        Ok(Response::new(ListPointsResponse { points, next_page_token }))
    }

    async fn get_point(&self, request: Request<GetPointRequest>) -> Result<Response<Point>, Status> {
        caller::reader(&request)?;
        let row = self.0.store.resolve_point(&request.get_ref().point).await?;
        Ok(Response::new(to_wire(row)))
    }
}

fn to_wire(row: PointRow) -> Point {
    let state = match row.state.as_str() {
        "listed" => PointState::Listed,
        "damaged" => PointState::Damaged,
        _ => PointState::Unspecified,
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
        consistency: wire::consistency(&row.consistency).into(),
        state: state.into(),
        disks: disks.collect(),
    }
}
