//! An agent as far as the gateway sees it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use holdfast_proto::ids::{AgentId, MachineId, SnapshotId, StepId};
use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use holdfast_proto::v1::{
    CellFrame, CommitTransferRequest, CommitTransferResponse, Disk, DiskSummary, FrameAck, MapLayer,
    OpenTransferRequest, OpenTransferResponse, ReadBlockMapRequest, StepAttempt, block_map_run::Blocks,
};
use holdfast_vault_engine::{BlockHasher, DiskSpec};

use crate::image;

#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) client: TransferServiceClient<Channel>,
    pub(crate) id: AgentId,
    pub(crate) machine: MachineId,
    pub(crate) step: StepId,
    pub(crate) attempt: i64,
    pub(crate) snapshot: SnapshotId,
    pub(crate) disks: Vec<DiskSpec>,
}

/// An upload stream that the test feeds by hand.
pub(crate) struct Upload {
    pub(crate) frames: mpsc::Sender<CellFrame>,
    pub(crate) acks: Streaming<FrameAck>,
}

impl Agent {
    pub(crate) fn new(
        channel: Channel,
        id: AgentId,
        machine: MachineId,
        (step, attempt): (StepId, i64),
        snapshot: SnapshotId,
        disks: Vec<DiskSpec>,
    ) -> Self {
        let client = TransferServiceClient::new(channel)
            .max_decoding_message_size(8 << 20)
            .max_encoding_message_size(8 << 20);
        Self { client, id, machine, step, attempt, snapshot, disks }
    }

    /// The same transfer over another connection: after a restart of the gateway, or beside another client.
    pub(crate) fn over(&self, channel: Channel) -> Self {
        let (step, disks) = ((self.step, self.attempt), self.disks.clone());
        Self::new(channel, self.id, self.machine, step, self.snapshot, disks)
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("test-agent", self.id.to_string().parse().unwrap());
        request
    }

    pub(crate) fn wire_attempt(&self) -> StepAttempt {
        StepAttempt { step_id: self.step.to_string(), attempt: self.attempt }
    }

    pub(crate) async fn try_open(&self) -> Result<OpenTransferResponse, Status> {
        let disks = self
            .disks
            .iter()
            .map(|disk| Disk { name: disk.name.clone(), size_bytes: disk.size_bytes })
            .collect();
        let request = OpenTransferRequest {
            attempt: Some(self.wire_attempt()),
            snapshot_id: self.snapshot.to_string(),
            disks,
        };
        self.client.clone().open_transfer(self.request(request)).await.map(Response::into_inner)
    }

    pub(crate) async fn open(&self) -> OpenTransferResponse {
        self.try_open().await.unwrap()
    }

    /// A disk's map: hash by block.
    pub(crate) async fn try_map(
        &self,
        transfer: &str,
        disk: &str,
        layer: MapLayer,
    ) -> Result<BTreeMap<u64, u64>, Status> {
        let request = ReadBlockMapRequest {
            transfer_id: transfer.to_owned(),
            disk_name: disk.to_owned(),
            layer: layer.into(),
        };
        let mut runs = self.client.clone().read_block_map(self.request(request)).await?.into_inner();
        let mut map = BTreeMap::new();
        let mut end = 0;
        while let Some(run) = runs.message().await? {
            assert!(run.first_block >= end, "runs are out of order");
            let hashes: Vec<u64> = match run.blocks.unwrap() {
                Blocks::Hashes(bytes) => {
                    assert!(bytes.len() <= 1 << 20);
                    bytes.chunks_exact(8).map(|hash| u64::from_le_bytes(hash.try_into().unwrap())).collect()
                }
                Blocks::ZeroCount(count) => vec![0; usize::try_from(count).unwrap()],
            };
            end = run.first_block + hashes.len() as u64;
            map.extend((run.first_block..).zip(hashes));
        }
        Ok(map)
    }

    pub(crate) async fn map(&self, transfer: &str, disk: &str, layer: MapLayer) -> BTreeMap<u64, u64> {
        self.try_map(transfer, disk, layer).await.unwrap()
    }

    /// Sends frames over one stream to its end. Answers which were acknowledged.
    pub(crate) async fn try_send(&self, frames: Vec<CellFrame>) -> Result<BTreeSet<u64>, Status> {
        let request = self.request(tokio_stream::iter(frames));
        let mut acks = self.client.clone().send_cells(request).await?.into_inner();
        let mut acknowledged = BTreeSet::new();
        while let Some(ack) = acks.message().await? {
            assert!(!ack.frames.is_empty());
            for frame in ack.frames {
                assert!(acknowledged.insert(frame), "frame {frame} was acknowledged twice");
            }
        }
        Ok(acknowledged)
    }

    pub(crate) async fn send(&self, frames: Vec<CellFrame>) {
        let count = frames.len() as u64;
        assert_eq!(self.try_send(frames).await.unwrap(), (1..=count).collect());
    }

    /// Begins a stream that stays open.
    pub(crate) async fn upload(&self) -> Upload {
        let (frames, receiver) = mpsc::channel(4);
        let request = self.request(ReceiverStream::new(receiver));
        let acks = self.client.clone().send_cells(request).await.unwrap().into_inner();
        Upload { frames, acks }
    }

    pub(crate) async fn try_commit(&self, transfer: &str) -> Result<CommitTransferResponse, Status> {
        let request = CommitTransferRequest {
            transfer_id: transfer.to_owned(),
            attempt: Some(self.wire_attempt()),
            disks: self
                .disks
                .iter()
                .map(|disk| DiskSummary { name: disk.name.clone(), read_bytes: 77 })
                .collect(),
        };
        self.client.clone().commit_transfer(self.request(request)).await.map(Response::into_inner)
    }

    pub(crate) async fn commit(&self, transfer: &str) -> CommitTransferResponse {
        self.try_commit(transfer).await.unwrap()
    }

    /// What differs from the gateway's map, as frames.
    pub(crate) async fn changed(
        &self,
        open: &OpenTransferResponse,
        disk: &str,
        bytes: &[u8],
    ) -> Vec<CellFrame> {
        let base = open.disks.iter().find(|base| base.name == disk).unwrap();
        let map = self.map(&open.transfer_id, disk, MapLayer::Merged).await;
        let hasher = BlockHasher::new(base.block_hash_key.as_slice().try_into().unwrap());
        let blocks =
            image::blocks(bytes).filter(|(number, block)| map.get(number) != Some(&hasher.hash(block)));
        image::frames(&open.transfer_id, disk, blocks)
    }

    /// A whole backup; answers the point's id.
    pub(crate) async fn back_up(&self, disks: &[(&str, &[u8])]) -> CommitTransferResponse {
        let open = self.open().await;
        for (disk, bytes) in disks {
            let frames = self.changed(&open, disk, bytes).await;
            self.send(frames).await;
        }
        self.commit(&open.transfer_id).await
    }
}

impl Upload {
    /// Reads acknowledgements until the stream ends: with a status, or none.
    pub(crate) async fn end(&mut self) -> Option<Status> {
        loop {
            match self.acks.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}
