use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::AgentId;
use holdfast_proto::v1::transfer_service_server::TransferService;
use holdfast_proto::v1::{
    self, BlockMapRun, CellFrame, CommitTransferRequest, CommitTransferResponse, FrameAck,
    OpenTransferRequest, OpenTransferResponse, ReadBlockMapRequest, block_map_run,
};
use holdfast_vault_engine::{MapBlocks, MapLayer, VaultError};

use crate::error::{busy, internal, invalid, reopen};
use crate::transfers::ENDED;
use crate::{AgentIdentity, Gateway, say_why, send};

/// Answers that may wait for an agent.
const OUTBOUND: usize = 16;

/// Serves [`TransferService`].
#[derive(Clone, Debug)]
pub struct TransferApi(pub(crate) Gateway);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl TransferService for TransferApi {
    type ReadBlockMapStream = Answers<BlockMapRun>;
    type SendCellsStream = Answers<FrameAck>;

    async fn open_transfer(
        &self,
        request: Request<OpenTransferRequest>,
    ) -> Result<Response<OpenTransferResponse>, Status> {
        let agent = agent_of(&request)?;
        // One after the other: what waits ends with its call.
        let turn = self.0.inner.transfers.turn(agent).lock_owned().await;
        // In a task of its own: what is begun is begun, also if the agent does not wait for it.
        let (gateway, request) = (self.0.clone(), request.into_inner());
        let open = async move {
            let _turn = turn;
            gateway.open(agent, request).await
        };
        let opened = self.0.inner.tasks.spawn(open).await;
        opened.map_err(|_| internal())?.map(Response::new)
    }

    async fn read_block_map(
        &self,
        request: Request<ReadBlockMapRequest>,
    ) -> Result<Response<Self::ReadBlockMapStream>, Status> {
        let (transfer, connection) =
            self.0.inner.transfers.find(agent_of(&request)?, &request.get_ref().transfer_id)?;
        let place = place(&connection.maps, "too many block maps")?;
        let request = request.into_inner();
        let layer = match request.layer() {
            v1::MapLayer::Merged => MapLayer::Merged,
            v1::MapLayer::Overlay => MapLayer::Overlay,
            v1::MapLayer::Unspecified => return Err(invalid("no layer is named")),
        };
        let gateway = self.0.clone();
        let reading = Arc::clone(&transfer);
        let failed = move |error: VaultError| gateway.transfer_failed(&reading, &error);
        let runs = transfer.backup.read_map(&request.disk_name, layer).await.map_err(&failed)?;
        let runs = runs.map(move |run| {
            let _place = &place;
            transfer.touch();
            let run = run.map_err(&failed)?;
            let blocks = match run.blocks {
                MapBlocks::Hashes(hashes) => block_map_run::Blocks::Hashes(hashes),
                MapBlocks::Zero(count) => block_map_run::Blocks::ZeroCount(count),
            };
            Ok(BlockMapRun { first_block: run.first_block, blocks: Some(blocks) })
        });
        // A part must not be taken for the whole.
        let closed = connection.closed.clone();
        let cut = async move { closed.is_cancelled().then(|| Err(reopen(ENDED))) };
        let cut = stream::once(cut).filter_map(std::future::ready);
        Ok(Response::new(Box::pin(runs.take_until(connection.closed.clone().cancelled_owned()).chain(cut))))
    }

    async fn send_cells(
        &self,
        request: Request<Streaming<CellFrame>>,
    ) -> Result<Response<Self::SendCellsStream>, Status> {
        let agent = agent_of(&request)?;
        let (transfer, connection) = self.0.inner.transfers.of(agent)?;
        let place = place(&connection.streams, "too many upload streams")?;
        let stream = send::Stream { transfer, connection };
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        let gateway = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) = stream.serve(&gateway, request.into_inner(), &sender).await {
                say_why(&sender, status, send::ACK_TIMEOUT).await;
            }
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn commit_transfer(
        &self,
        request: Request<CommitTransferRequest>,
    ) -> Result<Response<CommitTransferResponse>, Status> {
        let agent = agent_of(&request)?;
        let transfer = self.0.inner.transfers.find(agent, &request.get_ref().transfer_id)?;
        // A second call waits for the first and answers the same.
        let state = Arc::clone(&transfer.0.commit).lock_owned().await;
        let (gateway, request) = (self.0.clone(), request.into_inner());
        // In a task of its own: a commit that began must not stop in the middle because its client went away.
        let commit = async move { gateway.commit(agent, transfer, state, request).await };
        let committed = self.0.inner.tasks.spawn(commit).await;
        committed.map_err(|_| internal())?.map(Response::new)
    }
}

fn place(places: &Arc<Semaphore>, what_is_full: &str) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(places).try_acquire_owned().map_err(|_| busy(what_is_full))
}

fn agent_of<T>(request: &Request<T>) -> Result<AgentId, Status> {
    request.extensions().get::<AgentIdentity>().map(|identity| identity.0).ok_or_else(|| {
        user_error("no_certificate", "this call needs an agent's certificate")
            .into_status(Code::Unauthenticated)
    })
}
