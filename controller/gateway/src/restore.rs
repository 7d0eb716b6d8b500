use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};

use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::{MachineId, PointId};
use holdfast_proto::v1::restore_service_server::RestoreService;
use holdfast_proto::v1::{
    DiskCells, DiskEnd, DiskFrame, DiskStart, Piece, ReadDiskRequest, RestoredCell, disk_frame,
};
use holdfast_vault_engine::{
    BLOCK_SIZE, DiskReader, Point, PointState, StoredCell, VaultError, Window, chain,
};

use crate::error::{busy, damaged, status_of};
use crate::metrics::{RESTORED_BYTES, RESTORES};
use crate::retry::within;
use crate::{CataloguedPoint, Gateway, OperatorIdentity, PointLocation, Role, crash_point, say_why, wire};

/// Frames that may wait for the operator.
const OUTBOUND: usize = 8;
/// A frame ends at so many bytes of cells.
const FRAME_BYTES: usize = 1 << 20;
/// What a cell and a piece take besides the data, at most: many tiny cells must not make a frame too large to send.
const CELL_FRAMING: usize = 64;
const PIECE_FRAMING: usize = 40;
/// Extents of zeros in one frame.
const FRAME_ZEROS: usize = 32 << 10;
/// Serves [`RestoreService`].
#[derive(Clone, Debug)]
pub struct RestoreApi(pub(crate) Gateway);

/// Where frames go, and how long they may stay unread.
struct Frames {
    sender: mpsc::Sender<Result<DiskFrame, Status>>,
    timeout: Duration,
}

#[tonic::async_trait]
impl RestoreService for RestoreApi {
    type ReadDiskStream = Pin<Box<dyn Stream<Item = Result<DiskFrame, Status>> + Send>>;

    async fn read_disk(
        &self,
        request: Request<ReadDiskRequest>,
    ) -> Result<Response<Self::ReadDiskStream>, Status> {
        let operator = admin(&request)?.name.clone();
        let request = request.into_inner();
        let Ok(permit) = Arc::clone(&self.0.inner.restores).try_acquire_owned() else {
            return Err(busy("too many restores"));
        };
        let inner = &self.0.inner;
        let point = self.find(&request.point).await?;
        let disk = choose_disk(&point, &request.disk_name)?;
        within(inner.authority.record_restore(&operator, PointId(point.id), &disk)).await?;
        info!(operator, point = %point.id, disk, "restore begins");
        RESTORES.add(1);
        let reader = match inner.vault.open_disk(&point, &disk).await {
            Ok(reader) => reader,
            Err(error) => return Err(self.failed_point(&point, error).await),
        };
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        let frames = Frames { sender, timeout: inner.config.read_timeout };
        let api = self.clone();
        tokio::spawn(async move {
            let streamed = api.stream(&point, disk, reader, &frames).await;
            drop(permit);
            if let Err(status) = streamed {
                say_why(&frames.sender, status, frames.timeout).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl RestoreApi {
    /// Reads the point that the catalogue means.
    async fn find(&self, spec: &str) -> Result<Point, Status> {
        let inner = &self.0.inner;
        let CataloguedPoint { location, hash, .. } = within(inner.authority.find_point(spec)).await?;
        let PointLocation { machine, seq } = location;
        let error = match inner.vault.remembered_point(machine.0, seq, &hash).await {
            Ok(point) => return Ok(point),
            Err(VaultError::Missing { .. }) => {
                VaultError::Missing { object: format!("point {spec} of machine {machine}") }
            }
            Err(error) => error,
        };
        Err(self.failed(location, error).await)
    }

    async fn stream(
        &self,
        point: &Point,
        disk: String,
        reader: DiskReader,
        frames: &Frames,
    ) -> Result<(), Status> {
        let size_bytes = reader.size_bytes();
        let start = DiskStart { point_id: point.id.to_string(), disk_name: disk, size_bytes };
        crash_point("gateway::restore_begun");
        frames.send(disk_frame::Kind::Start(start)).await?;
        let mut block_count = 0;
        let mut windows = Box::pin(reader.windows());
        while let Some(window) = windows.next().await {
            let window = match window {
                Ok(window) => window,
                Err(error) => return Err(self.failed_point(point, error).await),
            };
            crash_point("gateway::window_read");
            for cells in split(window) {
                block_count += blocks(&cells);
                RESTORED_BYTES.add(cells.cells.iter().map(|cell| cell.data.len()).sum());
                frames.send(disk_frame::Kind::Cells(cells)).await?;
            }
        }
        if block_count != size_bytes.div_ceil(BLOCK_SIZE as u64) {
            return Err(damaged(format!("point {}: {block_count} blocks are not the whole disk", point.id)));
        }
        frames.send(disk_frame::Kind::End(DiskEnd { block_count })).await
    }

    async fn failed_point(&self, point: &Point, error: VaultError) -> Status {
        let location = PointLocation { machine: MachineId(point.machine), seq: point.seq };
        self.failed(location, error).await
    }

    /// A restore that meets damage marks its point.
    async fn failed(&self, location: PointLocation, error: VaultError) -> Status {
        if !error.is_damage() {
            return status_of(&error);
        }
        // Where there is no vault, or its disk gives nothing, everything is missing and nothing is damaged.
        if let Err(gone) = self.0.inner.vault.check_readable().await {
            return status_of(&gone);
        }
        // What was purged meanwhile is gone, not damaged.
        let standing = self.0.inner.vault.standing(location.machine.0, location.seq).await;
        if standing.is_ok_and(|standing| standing.state == PointState::Purged) {
            return user_error("point_purged", "the point was deleted, and its window is over")
                .action("restore another point: `holdfast point list` shows them")
                .into_status(Code::NotFound);
        }
        let PointLocation { machine, seq } = location;
        let marked = within(self.0.inner.authority.mark_damaged(location, &chain(&error))).await;
        if let Err(status) = &marked {
            warn!(%machine, seq, reason = status.message(), "a damaged point is not marked");
        }
        if let Some(segment) = error.damaged_segment() {
            let marked = marked.is_ok_and(|marked| marked).then_some(seq);
            self.0.spread_damage_later(machine, marked, segment);
        }
        status_of(&error)
    }
}

impl Frames {
    async fn send(&self, kind: disk_frame::Kind) -> Result<(), Status> {
        self.sender
            .send_timeout(Ok(DiskFrame { kind: Some(kind) }), self.timeout)
            .await
            .map_err(|_| Status::cancelled("the operator is gone"))
    }
}

/// Cuts a window into frames.
fn split(window: Window) -> Vec<DiskCells> {
    let mut frames: Vec<DiskCells> = window
        .zeros
        .chunks(FRAME_ZEROS)
        .map(|zeros| DiskCells {
            cells: Vec::new(),
            zero_extents: zeros.iter().copied().map(wire::extent).collect(),
        })
        .collect();
    let mut open = DiskCells::default();
    let mut bytes = 0;
    for cell in window.cells {
        bytes += cell.data.len() + CELL_FRAMING + cell.pieces.len() * PIECE_FRAMING;
        open.cells.push(restored(cell));
        if bytes >= FRAME_BYTES {
            frames.push(std::mem::take(&mut open));
            bytes = 0;
        }
    }
    if !open.cells.is_empty() {
        frames.push(open);
    }
    frames
}

fn restored(cell: StoredCell) -> RestoredCell {
    let pieces = cell
        .pieces
        .into_iter()
        .map(|piece| Piece { cell_block: piece.cell_block, extent: Some(wire::extent(piece.extent)) })
        .collect();
    RestoredCell {
        codec: wire::codec(cell.codec).into(),
        plain_bytes: cell.plain_bytes,
        plain_hash: cell.plain_hash.to_vec(),
        pieces,
        data: cell.data,
    }
}

fn blocks(cells: &DiskCells) -> u64 {
    let pieces = cells.cells.iter().flat_map(|cell| &cell.pieces).filter_map(|piece| piece.extent.as_ref());
    pieces.chain(&cells.zero_extents).map(|extent| extent.block_count).sum()
}

fn choose_disk(point: &Point, wanted: &str) -> Result<String, Status> {
    let names: Vec<&str> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
    match (wanted, names.as_slice()) {
        ("", [only]) => Ok((*only).to_owned()),
        ("", _) => Err(user_error("disk_not_named", "the point has several disks")
            .action(format!("name one of them: {}", names.join(", ")))
            .into_status(Code::InvalidArgument)),
        (wanted, names) if names.contains(&wanted) => Ok(wanted.to_owned()),
        (wanted, names) => Err(user_error("disk_not_found", format!("the point has no disk {wanted:?}"))
            .action(format!("its disks are: {}", names.join(", ")))
            .into_status(Code::NotFound)),
    }
}

fn admin<T>(request: &Request<T>) -> Result<&OperatorIdentity, Status> {
    let operator = request.extensions().get::<OperatorIdentity>().ok_or_else(|| {
        user_error("no_api_key", "this call needs an API key").into_status(Code::Unauthenticated)
    })?;
    match operator.role {
        Role::Admin => Ok(operator),
        Role::Viewer => {
            Err(user_error("role_too_low", format!("the API key {:?} may not read data", operator.name))
                .action("use a key of the role admin")
                .into_status(Code::PermissionDenied))
        }
    }
}
