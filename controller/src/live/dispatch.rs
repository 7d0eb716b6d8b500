use holdfast_proto::ids::{AgentId, StepId};
use holdfast_proto::v1::{
    CancelStep, Consistency, Dispatch, ReleaseSnapshot, StepAttempt, TakeSnapshot, TransferData,
    controller_message, dispatch::Step,
};

use crate::domain::job::{Consistency as Minimum, StepKind};
use crate::store::claim::ClaimedStep;

use super::{NotDelivered, Sessions};

impl Sessions {
    /// Hands a claimed step to its agent.
    pub(crate) fn dispatch(&self, claimed: &ClaimedStep) -> Result<(), NotDelivered> {
        let live = self.get(claimed.agent).ok_or(NotDelivered)?;
        let attempt = (claimed.step, claimed.attempt);
        let dispatch = Dispatch { attempt: Some(wire_attempt(attempt)), step: Some(to_wire(claimed)) };
        // Before it is sent: the answer may be faster than this thread.
        live.hand_over(attempt);
        live.send(controller_message::Kind::Dispatch(dispatch))
            .inspect_err(|NotDelivered| live.take_back(attempt))
    }

    /// Tells an agent to stop an attempt.
    pub(crate) fn cancel(&self, agent: AgentId, attempt: (StepId, i64)) -> Result<(), NotDelivered> {
        let cancel = CancelStep { attempt: Some(wire_attempt(attempt)) };
        self.get(agent).ok_or(NotDelivered)?.send(controller_message::Kind::Cancel(cancel))
    }
}

fn to_wire(claimed: &ClaimedStep) -> Step {
    let snapshot_id = claimed.snapshot_id.map(|id| id.to_string()).unwrap_or_default();
    match claimed.kind {
        StepKind::TakeSnapshot => Step::TakeSnapshot(TakeSnapshot {
            disk_names: claimed.disk_names.clone(),
            minimum: match claimed.minimum {
                Minimum::Application => Consistency::Application,
                Minimum::FileSystem => Consistency::FileSystem,
                Minimum::Crash => Consistency::Crash,
            }
            .into(),
        }),
        StepKind::TransferData => Step::TransferData(TransferData { snapshot_id, gateways: Vec::new() }),
        StepKind::ReleaseSnapshot => Step::ReleaseSnapshot(ReleaseSnapshot { snapshot_id }),
    }
}

pub(crate) fn wire_attempt((step, attempt): (StepId, i64)) -> StepAttempt {
    StepAttempt { step_id: step.to_string(), attempt }
}
