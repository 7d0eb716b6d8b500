use std::sync::Arc;

use tonic::Status;
use tracing::warn;

use holdfast_proto::ids::{AgentId, SnapshotId, StepId};
use holdfast_proto::v1::{DiskBase, OpenTransferRequest, OpenTransferResponse};
use holdfast_vault_engine::{BeginBackup, Begun, MAX_CELL_BYTES, Point, chain};

use crate::error::{invalid, reopen, stale, status_of};
use crate::retry::{persistently, within};
use crate::transfers::{CommitState, Transfer};
use crate::{Gateway, PointLocation, TransferGrant, crash_point};

impl Gateway {
    /// Opens an attempt's transfer, or joins it again. A transfer of this very attempt goes on: what it received is made
    /// durable first, so that the agent sees it in the maps. Anything else is begun afresh, which takes over what is
    /// durable.
    pub(crate) async fn open(
        &self,
        agent: AgentId,
        request: OpenTransferRequest,
    ) -> Result<OpenTransferResponse, Status> {
        let attempt = request.attempt.as_ref().ok_or_else(|| invalid("no attempt is named"))?;
        let (step, attempt) = (StepId::from_wire(&attempt.step_id)?, attempt.attempt);
        let grant = within(self.inner.authority.authorise_transfer(agent, step, attempt)).await?;
        check_disks(&grant, &request)?;
        let disks: Vec<String> = request.disks.into_iter().map(|disk| disk.name).collect();
        let transfers = &self.inner.transfers;
        let lock = transfers.opening(grant.machine);
        let _opening = lock.lock().await;
        if self.inner.stopping.is_cancelled() {
            return Err(reopen("the gateway stops"));
        }
        if let Some(transfer) = transfers.get(grant.machine) {
            if transfer.step == step && transfer.attempt > attempt {
                return Err(stale(attempt));
            }
            if (transfer.agent, transfer.step, transfer.attempt) == (agent, step, attempt)
                && let Some(response) = self.join(&transfer, disks.clone()).await?
            {
                return Ok(response);
            }
            transfers.remove(&transfer);
        }
        transfers.make_room(grant.machine, self.inner.config.max_transfers)?;
        self.begin(agent, step, attempt, grant, disks).await
    }

    /// Goes on with an open transfer; `None` if it is of no use any more.
    async fn join(
        &self,
        transfer: &Arc<Transfer>,
        disks: Vec<String>,
    ) -> Result<Option<OpenTransferResponse>, Status> {
        // What an ended stream still hands over must be in the maps, too.
        transfer.reconnect(disks).wait().await;
        let mut commit = transfer.commit.lock().await;
        self.record_created(&mut commit).await?;
        match &*commit {
            CommitState::Recorded(point) | CommitState::Created(point) => return Ok(Some(committed(point))),
            // A commit that this waited for failed: it takes nothing any more.
            CommitState::Receiving if transfer.connection().closed.is_cancelled() => return Ok(None),
            CommitState::Receiving => {}
        }
        let outcome = self.inner.vault.outcome(transfer.machine.0, transfer.backup.seq()).await;
        if outcome.map_err(|error| status_of(&error))?.is_some() {
            // Another gateway began for this machine meanwhile: what is sent here could never be committed.
            return Ok(None);
        }
        if let Err(error) = transfer.backup.flush().await {
            if error.is_no_space() {
                self.inner.transfers.remove(transfer);
                return Err(status_of(&error));
            }
            warn!(machine = %transfer.machine, error = chain(&error),
                "the transfer cannot go on where it was; it begins afresh");
            return Ok(None);
        }
        transfer.touch();
        describe(transfer).map(Some)
    }

    async fn begin(
        &self,
        agent: AgentId,
        step: StepId,
        attempt: i64,
        grant: TransferGrant,
        names: Vec<String>,
    ) -> Result<OpenTransferResponse, Status> {
        let begin = BeginBackup {
            machine: grant.machine.0,
            machine_name: grant.machine_name,
            snapshot_id: grant.snapshot_id.0,
            step_id: step.0,
            attempt,
            consistency: grant.consistency,
            taken_at: grant.taken_at,
            disks: grant.disks,
            at_least_seq: grant.last_seq,
            damaged: grant.damaged,
        };
        match self.inner.vault.begin(begin).await.map_err(|error| status_of(&error))? {
            Begun::AlreadyCommitted(point) => {
                persistently("index a point", || self.inner.authority.record_point(&point)).await?;
                Ok(committed(&point))
            }
            Begun::Open(backup) => {
                crash_point("gateway::opened");
                if let Some(damaged) = backup.heals() {
                    let damaged = PointLocation { machine: grant.machine, seq: damaged.seq };
                    within(self.inner.authority.record_healing(step, damaged)).await?;
                }
                let transfer = Transfer::new(agent, grant.machine, (step, attempt), names, backup);
                let response = describe(&transfer)?;
                self.inner.transfers.insert(transfer);
                Ok(response)
            }
        }
    }
}

/// The agent must speak of the snapshot that the control plane knows.
fn check_disks(grant: &TransferGrant, request: &OpenTransferRequest) -> Result<(), Status> {
    if SnapshotId::from_wire(&request.snapshot_id)? != grant.snapshot_id {
        return Err(invalid("this is not the snapshot that was taken for the job"));
    }
    let mut named: Vec<(&str, u64)> =
        request.disks.iter().map(|disk| (disk.name.as_str(), disk.size_bytes)).collect();
    let mut granted: Vec<(&str, u64)> =
        grant.disks.iter().map(|disk| (disk.name.as_str(), disk.size_bytes)).collect();
    named.sort_unstable();
    granted.sort_unstable();
    if named == granted { Ok(()) } else { Err(invalid("these are not the disks of the snapshot")) }
}

fn describe(transfer: &Transfer) -> Result<OpenTransferResponse, Status> {
    let connection = transfer.connection();
    let disks = connection
        .disks
        .iter()
        .map(|disk| {
            let base = transfer.backup.disk_base(disk).map_err(|error| status_of(&error))?;
            Ok(DiskBase {
                name: disk.clone(),
                base_size_bytes: base.base_size_bytes,
                block_hash_key: base.block_hash_key.to_vec(),
                base_map_id: base.map_id.map(|id| id.to_vec()).unwrap_or_default(),
                has_overlay: base.has_overlay,
            })
        })
        .collect::<Result<_, Status>>()?;
    Ok(OpenTransferResponse {
        transfer_id: connection.id,
        disks,
        max_cell_bytes: u32::try_from(MAX_CELL_BYTES).unwrap_or(0),
        committed_point_id: String::new(),
    })
}

fn committed(point: &Point) -> OpenTransferResponse {
    OpenTransferResponse { committed_point_id: point.id.to_string(), ..OpenTransferResponse::default() }
}
