use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use tracing::{info, warn};

use holdfast_proto::error::{ErrorDetailExt as _, system_error};
use holdfast_proto::ids::{AgentId, StepId};
use holdfast_proto::v1::{CommitTransferRequest, CommitTransferResponse};
use holdfast_vault_engine::{Point, VaultError, chain};

use crate::authority::CommitBegun;
use crate::error::{invalid, reopen, status_of};
use crate::metrics::POINTS;
use crate::retry::{persistently, within};
use crate::transfers::{CommitState, Connection, ENDED, Transfer};
use crate::{Gateway, crash_point};

const BASE_DAMAGED: &str = "the point that it is built upon was found damaged: it begins anew, without that";

impl Gateway {
    /// Makes what was received a point; `state` is the transfer's.
    pub(crate) async fn commit(
        &self,
        agent: AgentId,
        (transfer, connection): (Arc<Transfer>, Connection),
        mut state: OwnedMutexGuard<CommitState>,
        request: CommitTransferRequest,
    ) -> Result<CommitTransferResponse, Status> {
        // It waited for the state: another transfer may have taken the place of this one.
        if connection.closed.is_cancelled() {
            return Err(reopen(ENDED));
        }
        let attempt = request.attempt.as_ref().ok_or_else(|| invalid("no attempt is named"))?;
        if (StepId::from_wire(&attempt.step_id)?, attempt.attempt) != (transfer.step, transfer.attempt) {
            return Err(invalid("the transfer is of another attempt"));
        }
        within(self.inner.authority.authorise_transfer(agent, transfer.step, transfer.attempt)).await?;
        let read: Vec<(String, u64)> =
            request.disks.into_iter().map(|disk| (disk.name, disk.read_bytes)).collect();
        let point = match &*state {
            CommitState::Created(point) | CommitState::Recorded(point) => Point::clone(point),
            CommitState::Receiving => {
                // It takes nothing any more, and after an error the point may be there: the agent opens its transfer
                // afresh, which asks the vault.
                let created = self.create_point(&transfer, &read).await;
                let point = created.inspect_err(|_| self.inner.transfers.remove(&transfer))?;
                *state = CommitState::Created(Box::new(point.clone()));
                point
            }
        };
        self.record_created(&mut state).await?;
        drop(state);
        transfer.touch();
        let map_ids = connection
            .disks
            .iter()
            .map(|disk| point.map_id(disk).map(|id| id.to_vec()).unwrap_or_default())
            .collect();
        Ok(CommitTransferResponse { point_id: point.id.to_string(), map_ids })
    }

    /// What an agent gets to know of an error of its transfer. Where only backups look, the base may be damaged: that costs a full transfer
    /// and no job, since the transfer ends, and who opens it again looks there first and does not build on that.
    pub(crate) fn transfer_failed(&self, transfer: &Arc<Transfer>, error: &VaultError) -> Status {
        if !error.is_damage() || !transfer.backup.may_have_damaged_base() {
            return status_of(error);
        }
        warn!(machine = %transfer.machine, error = chain(error), "the transfer begins anew: its base may be damaged");
        self.inner.transfers.remove(transfer);
        reopen(BASE_DAMAGED)
    }

    async fn create_point(&self, transfer: &Arc<Transfer>, read: &[(String, u64)]) -> Result<Point, Status> {
        let Transfer { step, attempt, backup, .. } = &**transfer;
        let prepared = backup.prepare(read).await.map_err(|error| self.transfer_failed(transfer, &error))?;
        crash_point("gateway::prepared");
        let (authority, mut asked) = (&self.inner.authority, Instant::now());
        let base = backup.base().map(|base| base.seq);
        let begun = persistently("begin a commit", || {
            asked = Instant::now();
            authority.begin_commit(*step, *attempt, backup.seq(), base)
        })
        .await?;
        let lease = match begun {
            CommitBegun::Lease(lease) => lease,
            CommitBegun::BaseDamaged => return Err(reopen(BASE_DAMAGED)),
        };
        crash_point("gateway::commit_begun");
        // Later anybody may conclude it: whoever goes on then only keeps the agent from beginning afresh.
        let created = timeout_at(asked + lease, prepared.commit()).await.map_err(|_| {
            warn!(machine = %transfer.machine, seq = backup.seq(), "the vault does not say in time whether the point is there");
            system_error("vault_unavailable", "the vault's storage did not answer in time")
                .retryable()
                .action("try again; if it stays so, look at the gateway's log")
                .into_status(Code::Unavailable)
        })?;
        let point = created.map_err(|error| status_of(&error))?;
        crash_point("gateway::point_created");
        info!(machine = %transfer.machine, point = %point.id, seq = point.seq, "point committed");
        POINTS.add(1);
        Ok(point)
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
