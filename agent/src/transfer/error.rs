//! Why a pass of a transfer ended without a point, and what follows from it.

use std::io;

use holdfast_proto::error::{ErrorDetailExt as _, agent_error, detail_of, system_error};
use holdfast_proto::v1::ErrorDetail;
use tokio::task::JoinError;
use tonic::{Code, Status};

use crate::context::StepFailure;
use crate::dial::DialError;
use crate::snapshot::SnapshotError;

/// Why a pass ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    /// Another part of the pass ended first.
    #[error("stopped")]
    Stopped,
    #[error("no gateway can be reached")]
    Dial(#[source] DialError),
    #[error("the gateway did not {what} in time")]
    Timeout { what: &'static str },
    #[error("the connection to the gateway was lost while trying to {what}: {}", status.message())]
    Lost { what: &'static str, status: Box<Status> },
    #[error("the gateway ended the stream before it acknowledged everything")]
    Unacknowledged,
    /// The gateway's last word.
    #[error("the gateway refused: {}", .0.message)]
    Refused(Box<ErrorDetail>),
    #[error("the gateway does not keep to the protocol: {reason}")]
    Protocol { reason: String },
    #[error("the local block map of disk {disk} is damaged")]
    MapDamaged { disk: String },
    #[error("cannot read disk {disk} at byte {offset}")]
    Read { disk: String, offset: u64, source: io::Error },
    #[error("disk {disk} did not answer within {limit_s} s")]
    Silent { disk: String, limit_s: u64 },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl TransferError {
    /// Sorts a failed call into what another pass may heal and what is final.
    pub(super) fn of_status(what: &'static str, status: Status) -> Self {
        match status.code() {
            Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::DataLoss => Self::Refused(Box::new(detail_of(&status))),
            _ => Self::Lost { what, status: Box::new(status) },
        }
    }

    pub(super) fn protocol(reason: impl Into<String>) -> Self {
        Self::Protocol { reason: reason.into() }
    }

    /// Whether the same pass may succeed later.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Dial(_) | Self::Timeout { .. } | Self::Lost { .. } | Self::Unacknowledged)
    }

    /// Whether the gateway itself failed, so that trying for hours makes no sense.
    pub(super) fn is_fault(&self) -> bool {
        matches!(self, Self::Lost { status, .. } if status.code() == Code::Internal && has_detail(status))
    }

    /// Of several parts that failed, the one with the highest rank tells why.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Dial(_) | Self::Timeout { .. } | Self::Lost { .. } | Self::Unacknowledged => 1,
            Self::MapDamaged { .. } => 2,
            Self::Refused(_) | Self::Protocol { .. } | Self::Read { .. } | Self::Silent { .. } => 3,
            Self::Snapshot(_) => 4,
        }
    }
}

const SEE_CONTROLLER: &str = "see that the controller runs and can be reached from this machine; its log may say why it ended the connection";

/// HTTP/2 errors come as INTERNAL too, but only the gateway's own errors carry a detail.
fn has_detail(status: &Status) -> bool {
    status.metadata().contains_key(holdfast_proto::error::ERROR_TRAILER)
}

impl From<TransferError> for StepFailure {
    fn from(error: TransferError) -> Self {
        let message = crate::error::chain(&error);
        let detail = match error {
            // Parts stop only because another one failed, which is then the reason.
            TransferError::Stopped => {
                agent_error("internal", "the transfer stopped for no known reason").retryable()
            }
            TransferError::Refused(detail) => return Self::Failed(detail),
            TransferError::Snapshot(error) => error.detail(),
            TransferError::Read { .. } => {
                agent_error("disk_read_failed", message).action("check the disk and the machine's kernel log")
            }
            TransferError::Silent { .. } => agent_error("disk_stalled", message)
                .retryable()
                .action("see whether the storage answers, and the machine's kernel log"),
            TransferError::Lost { status, .. } if has_detail(&status) => detail_of(&status),
            TransferError::MapDamaged { .. } => system_error("transfer_failed", message).retryable().action(
                "see in the machine's kernel log whether the disk of the agent's state directory fails",
            ),
            TransferError::Dial(error) => system_error("transfer_failed", message)
                .retryable()
                .action(error.action().unwrap_or(SEE_CONTROLLER)),
            TransferError::Timeout { .. } | TransferError::Lost { .. } | TransferError::Unacknowledged => {
                system_error("transfer_failed", message).retryable().action(SEE_CONTROLLER)
            }
            TransferError::Protocol { .. } => system_error("transfer_failed", message)
                .action("compare the versions of agent and controller"),
        };
        detail.into()
    }
}

/// The result of a task of a pass; one that was aborted has stopped.
pub(super) fn joined<T>(result: Result<T, JoinError>) -> Result<T, TransferError> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => TransferError::Stopped,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_proto::error::user_error;

    use super::*;

    #[test]
    fn what_ends_a_transfer_says_what_to_do() {
        let clock = || DialError::Clock {
            address: "gateway:7443".parse().unwrap(),
            validity: "is valid from tomorrow on".to_owned(),
            now: "today".to_owned(),
        };
        let action = |error: TransferError| match StepFailure::from(error) {
            StepFailure::Failed(detail) => detail.action,
            StepFailure::Cancelled => panic!(),
        };
        assert_eq!(action(TransferError::Dial(clock())), clock().action().unwrap());
        for error in [
            TransferError::MapDamaged { disk: "data".to_owned() },
            TransferError::Timeout { what: "answer" },
            TransferError::of_status("send", Status::unavailable("gone")),
            TransferError::Unacknowledged,
        ] {
            assert_ne!(action(error), "");
        }
    }

    /// An operator has to act, and nothing is lost that comes back by itself.
    #[test]
    fn a_quarantine_is_final() {
        let quarantined = user_error("machine_quarantined", "copied").into_status(Code::FailedPrecondition);
        let error = TransferError::of_status("open", quarantined);
        assert!(!error.is_loss(), "{error:?}");
    }
}
