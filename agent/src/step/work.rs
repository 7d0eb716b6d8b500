//! What a dispatch asks for, read.

use holdfast_proto::ids::SnapshotId;
use holdfast_proto::v1::{Consistency, Dispatch, dispatch};

/// What one dispatch asks for.
#[derive(Debug)]
pub(crate) enum Work {
    TakeSnapshot {
        disk_names: Vec<String>,
        minimum: Consistency,
    },
    TransferData {
        snapshot: SnapshotId,
        gateways: Vec<String>,
    },
    ReleaseSnapshot {
        snapshot: SnapshotId,
    },
    /// From a newer or broken controller.
    Unknown,
}

impl Work {
    pub(crate) fn from_wire(dispatch: Dispatch) -> Self {
        match dispatch.step {
            Some(dispatch::Step::TakeSnapshot(take)) => {
                Self::TakeSnapshot { minimum: take.minimum(), disk_names: take.disk_names }
            }
            Some(dispatch::Step::TransferData(transfer)) => match transfer.snapshot_id.parse() {
                Ok(snapshot) => Self::TransferData { snapshot, gateways: transfer.gateways },
                Err(_) => Self::Unknown,
            },
            Some(dispatch::Step::ReleaseSnapshot(release)) => match release.snapshot_id.parse() {
                Ok(snapshot) => Self::ReleaseSnapshot { snapshot },
                // Never one of ours, so there is nothing to release.
                Err(_) => Self::ReleaseSnapshot { snapshot: SnapshotId(uuid::Uuid::nil()) },
            },
            None => Self::Unknown,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::TakeSnapshot { .. } => "take_snapshot",
            Self::TransferData { .. } => "transfer_data",
            Self::ReleaseSnapshot { .. } => "release_snapshot",
            Self::Unknown => "unknown",
        }
    }
}
