use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};
use tracing::{info, warn};

use holdfast_proto::ids::{AgentId, StepId};
use holdfast_proto::v1::{CommitTransferRequest, CommitTransferResponse};
use holdfast_vault_engine::{Point, Prepared, VaultError};

use crate::error::{chain, invalid, status_of};
use crate::metrics::POINTS;
use crate::retry::{persistently, within};
use crate::transfers::{CommitState, Connection, Transfer};
use crate::{Gateway, crash_point};

/// Tries to create a point before it is left to the resolver.
const CREATE_TRIES: u32 = 4;
const CREATE_WAIT: Duration = Duration::from_millis(250);

impl Gateway {
    /// Makes what was received a point. A second call waits for the first and answers the same.
    pub(crate) async fn commit(
        &self,
        agent: AgentId,
        (transfer, connection): (Arc<Transfer>, Connection),
        request: CommitTransferRequest,
    ) -> Result<CommitTransferResponse, Status> {
        let attempt = request.attempt.as_ref().ok_or_else(|| invalid("no attempt is named"))?;
        if (StepId::from_wire(&attempt.step_id)?, attempt.attempt) != (transfer.step, transfer.attempt) {
            return Err(invalid("the transfer is of another attempt"));
        }
        within(self.inner.authority.authorise_transfer(agent, transfer.step, transfer.attempt)).await?;
        let read: Vec<(String, u64)> =
            request.disks.into_iter().map(|disk| (disk.name, disk.read_bytes)).collect();
        let mut state = transfer.commit.lock().await;
        let made = self.make_point(&transfer, &mut state, &read).await;
        drop(state);
        transfer.touch();
        let point = made.inspect_err(|status| {
            if matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument | Code::DataLoss) {
                self.inner.transfers.remove(&transfer);
            }
        })?;
        let map_ids = connection
            .disks
            .iter()
            .map(|disk| point.map_id(disk).map(|id| id.to_vec()).unwrap_or_default())
            .collect();
        Ok(CommitTransferResponse { point_id: point.id.to_string(), map_ids })
    }

    /// Goes on from wherever an earlier call got to.
    async fn make_point(
        &self,
        transfer: &Arc<Transfer>,
        state: &mut CommitState,
        read: &[(String, u64)],
    ) -> Result<Point, Status> {
        if let CommitState::Receiving = state {
            let prepared = transfer.backup.prepare(read).await.map_err(|error| {
                // It takes nothing any more: the agent has to open its transfer afresh.
                self.inner.transfers.remove(transfer);
                status_of(&error)
            })?;
            *state = CommitState::Prepared(Box::new(prepared));
        }
        if let CommitState::Prepared(prepared) = state {
            crash_point("gateway::prepared");
            let authority = &self.inner.authority;
            let seq = transfer.backup.seq();
            persistently("begin a commit", || authority.begin_commit(transfer.step, transfer.attempt, seq))
                .await?;
            crash_point("gateway::commit_begun");
            let point = create(prepared).await.map_err(|error| status_of(&error))?;
            crash_point("gateway::point_created");
            info!(machine = %transfer.machine, point = %point.id, seq = point.seq, "point committed");
            POINTS.add(1);
            *state = CommitState::Created(Box::new(point));
        }
        self.record_created(state).await?;
        match state {
            CommitState::Created(point) | CommitState::Recorded(point) => Ok(Point::clone(point)),
            CommitState::Receiving | CommitState::Prepared(_) => {
                Err(invalid("the commit did not come to a point"))
            }
        }
    }

    /// Indexes a point that exists. If the catalogue cannot be reached for long, the resolver does it later.
    pub(crate) async fn record_created(&self, state: &mut CommitState) -> Result<(), Status> {
        if let CommitState::Created(point) = state {
            persistently("index a point", || self.inner.authority.record_point(point)).await?;
            crash_point("gateway::point_recorded");
            *state = CommitState::Recorded(point.clone());
        }
        Ok(())
    }
}

/// After a storage error nobody knows whether the point is there: the same name is tried again, and answers.
async fn create(prepared: &Prepared) -> Result<Point, VaultError> {
    let mut wait = CREATE_WAIT;
    for _ in 1..CREATE_TRIES {
        match prepared.commit().await {
            Err(error) if error.is_retryable() => {
                warn!(point = %prepared.point().id, error = chain(&error), "the point is created again");
            }
            decided => return decided,
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    prepared.commit().await
}
