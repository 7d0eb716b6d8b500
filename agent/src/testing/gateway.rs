//! A gateway that keeps everything in memory, checks every frame, and can be told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holdfast_proto::v1::transfer_service_server::TransferService;
use holdfast_proto::v1::{
    BlockMapRun, CellFrame, Codec, CommitTransferRequest, CommitTransferResponse, Disk, DiskBase, FrameAck,
    MapLayer, OpenTransferRequest, OpenTransferResponse, ReadBlockMapRequest, block_map_run::Blocks,
};
use holdfast_vault_format::{BLOCK_SIZE, BlockHasher, MAX_CELL_BYTES, decode_cell};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Of the block hashes of every disk. Nothing else looks like it.
pub(crate) const KEY: [u8; 32] = *b"the key of block hashes in tests";
const BLOCK: u64 = BLOCK_SIZE as u64;

#[derive(Clone, Default)]
pub(crate) struct TestGateway(Arc<Mutex<State>>);

#[derive(Default)]
pub(crate) struct State {
    disks: BTreeMap<String, DiskState>,
    opened: Vec<Disk>,
    committed: Option<String>,
    /// Ends a stream with UNAVAILABLE instead of taking the frame once so many were taken.
    pub(crate) break_after: Option<usize>,
    /// Answers OpenTransfer with this.
    pub(crate) refuse_open: Option<Status>,
    /// Answers CommitTransfer with this.
    pub(crate) refuse_commit: Option<Status>,
    /// Never answers OpenTransfer.
    pub(crate) hang_open: bool,
    /// Takes the commit but loses its answer.
    pub(crate) lose_commit_answer: bool,
    /// Waits so long before the first run of a block map.
    pub(crate) map_delay: Duration,
    pub(crate) frames: usize,
    /// Frames that only showed that the stream is alive.
    pub(crate) empty_frames: usize,
    pub(crate) opens: usize,
    pub(crate) map_reads: Vec<MapLayer>,
    /// Blocks that came, the same block once per time, since the last commit.
    pub(crate) blocks_received: usize,
    pub(crate) read_bytes: Vec<u64>,
}

#[derive(Default)]
struct DiskState {
    /// The newest point: its bytes, padded to whole blocks.
    base: Vec<u8>,
    base_size: u64,
    generation: u8,
    received: BTreeMap<u64, Vec<u8>>,
}

impl TestGateway {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What a restore of the newest point gives.
    pub(crate) fn restore(&self, disk: &str) -> Vec<u8> {
        let state = self.state();
        let disk = &state.disks[disk];
        disk.base[..usize::try_from(disk.base_size).unwrap()].to_vec()
    }

    /// Forgets what was counted.
    pub(crate) fn reset_counters(&self) {
        let mut state = self.state();
        (state.frames, state.opens, state.blocks_received) = (0, 0, 0);
        state.map_reads.clear();
        state.committed = None;
    }
}

impl State {
    /// Takes a frame; `false` if the stream is to break here.
    fn take(&mut self, frame: &CellFrame) -> bool {
        if frame.cells.is_empty() && frame.zero_extents.is_empty() {
            self.empty_frames += 1;
            return true;
        }
        if self.break_after == Some(self.frames) {
            self.break_after = None;
            return false;
        }
        self.frames += 1;
        let mut blocks = Vec::new();
        let bytes: usize = frame.cells.iter().map(|cell| cell.data.len()).sum();
        assert!(bytes <= 3 << 20, "a frame of {bytes} bytes");
        for cell in &frame.cells {
            let codec = match cell.codec() {
                Codec::Raw => holdfast_vault_format::Codec::Raw,
                Codec::Zstd => holdfast_vault_format::Codec::Zstd,
                Codec::Unspecified => panic!("no codec"),
            };
            let plain = decode_cell(codec, cell.plain_bytes, &cell.data).unwrap();
            let numbers: Vec<u64> = cell
                .extents
                .iter()
                .flat_map(|extent| extent.first_block..extent.first_block + extent.block_count)
                .collect();
            assert_eq!(numbers.len() * BLOCK_SIZE, plain.len());
            assert!(numbers.is_sorted_by(|a, b| a < b) && cell.extents.len() <= 32);
            blocks.extend(numbers.into_iter().zip(plain.chunks_exact(BLOCK_SIZE).map(<[u8]>::to_vec)));
        }
        for extent in &frame.zero_extents {
            for number in extent.first_block..extent.first_block + extent.block_count {
                blocks.push((number, vec![0; BLOCK_SIZE]));
            }
        }
        self.blocks_received += blocks.len();
        self.disks.get_mut(&frame.disk_name).unwrap().received.extend(blocks);
        true
    }

    fn commit(&mut self) -> CommitTransferResponse {
        let mut map_ids = Vec::new();
        for disk in &self.opened {
            let state = self.disks.get_mut(&disk.name).unwrap();
            let count = disk.size_bytes.div_ceil(BLOCK);
            let known = state.base_size.div_ceil(BLOCK);
            for number in known..count {
                assert!(state.received.contains_key(&number), "block {number} is not covered");
            }
            state.base.resize(usize::try_from(count * BLOCK).unwrap(), 0);
            for (number, block) in std::mem::take(&mut state.received) {
                let start = usize::try_from(number * BLOCK).unwrap();
                if number < count {
                    state.base[start..start + BLOCK_SIZE].copy_from_slice(&block);
                }
            }
            state.base_size = disk.size_bytes;
            state.generation += 1;
            map_ids.push(vec![state.generation; 32]);
        }
        let point_id = uuid::Uuid::new_v4().to_string();
        self.committed = Some(point_id.clone());
        CommitTransferResponse { point_id, map_ids }
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl TransferService for TestGateway {
    type ReadBlockMapStream = Answers<BlockMapRun>;
    type SendCellsStream = Answers<FrameAck>;

    async fn open_transfer(
        &self,
        request: Request<OpenTransferRequest>,
    ) -> Result<Response<OpenTransferResponse>, Status> {
        if self.state().hang_open {
            std::future::pending::<()>().await;
        }
        let request = request.into_inner();
        let mut state = self.state();
        state.opens += 1;
        if let Some(status) = &state.refuse_open {
            return Err(status.clone());
        }
        state.opened.clone_from(&request.disks);
        let disks = request
            .disks
            .iter()
            .map(|disk| {
                let known = state.disks.entry(disk.name.clone()).or_default();
                DiskBase {
                    name: disk.name.clone(),
                    base_size_bytes: known.base_size,
                    block_hash_key: KEY.to_vec(),
                    base_map_id: if known.generation > 0 { vec![known.generation; 32] } else { Vec::new() },
                    has_overlay: !known.received.is_empty(),
                }
            })
            .collect();
        Ok(Response::new(OpenTransferResponse {
            transfer_id: "transfer".to_owned(),
            disks,
            max_cell_bytes: u32::try_from(MAX_CELL_BYTES).unwrap(),
            committed_point_id: state.committed.clone().unwrap_or_default(),
        }))
    }

    async fn read_block_map(
        &self,
        request: Request<ReadBlockMapRequest>,
    ) -> Result<Response<Self::ReadBlockMapStream>, Status> {
        let request = request.into_inner();
        let hasher = BlockHasher::new(&KEY);
        let mut hashes = BTreeMap::new();
        {
            let mut state = self.state();
            state.map_reads.push(request.layer());
            let disk = &state.disks[&request.disk_name];
            if request.layer() == MapLayer::Merged {
                hashes.extend(
                    disk.base
                        .chunks_exact(BLOCK_SIZE)
                        .map(|block| hasher.hash(block))
                        .zip(0_u64..)
                        .map(|(h, n)| (n, h)),
                );
            }
            hashes.extend(disk.received.iter().map(|(number, block)| (*number, hasher.hash(block))));
        }
        let (sender, answers) = mpsc::channel(4);
        let delay = self.state().map_delay;
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            for (first_block, hash) in hashes {
                let blocks = if hash == 0 {
                    Blocks::ZeroCount(1)
                } else {
                    Blocks::Hashes(hash.to_le_bytes().to_vec().into())
                };
                if sender.send(Ok(BlockMapRun { first_block, blocks: Some(blocks) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn send_cells(
        &self,
        request: Request<Streaming<CellFrame>>,
    ) -> Result<Response<Self::SendCellsStream>, Status> {
        let (sender, answers) = mpsc::channel(4);
        let (gateway, mut frames) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut numbers = BTreeSet::new();
            while let Ok(Some(frame)) = frames.message().await {
                assert!(numbers.insert(frame.frame), "frame {} came twice", frame.frame);
                let taken = gateway.state().take(&frame);
                let answer = if taken {
                    Ok(FrameAck { frames: vec![frame.frame] })
                } else {
                    Err(Status::unavailable("the gateway stops"))
                };
                if sender.send(answer).await.is_err() || !taken {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn commit_transfer(
        &self,
        request: Request<CommitTransferRequest>,
    ) -> Result<Response<CommitTransferResponse>, Status> {
        let mut state = self.state();
        if let Some(status) = &state.refuse_commit {
            return Err(status.clone());
        }
        state.read_bytes = request.into_inner().disks.iter().map(|disk| disk.read_bytes).collect();
        let answer = state.commit();
        if std::mem::take(&mut state.lose_commit_answer) {
            return Err(Status::unavailable("the gateway stops"));
        }
        Ok(Response::new(answer))
    }
}
