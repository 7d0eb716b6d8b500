//! The one place where errors of the vault become gRPC statuses.

use tonic::{Code, Status};
use tracing::error;

use holdfast_proto::error::{ErrorDetailExt as _, agent_error, system_error, user_error};
use holdfast_vault_engine::{Refusal, VaultError};

use holdfast_vault_engine::chain;

/// Says what a caller gets to know of an error of the vault. Those that an operator has to look at are logged here.
pub(crate) fn status_of(vault_error: &VaultError) -> Status {
    let message = chain(vault_error);
    match vault_error {
        VaultError::Aborted { .. } => {
            // An attempt that is not current is fenced by its number; a current one may try again.
            agent_error("transfer_superseded", message).retryable().into_status(Code::FailedPrecondition)
        }
        VaultError::NoSuchDisk { .. } => user_error("disk_not_found", message)
            .action("`holdfast point show POINT` lists its disks")
            .into_status(Code::NotFound),
        VaultError::Refused { source, .. } => refused(source),
        VaultError::NotCovered { .. } => {
            agent_error("transfer_incomplete", message).into_status(Code::InvalidArgument)
        }
        VaultError::Gone => {
            error!("{message}");
            system_error("vault_gone", message)
                .retryable()
                .action(
                    "mount the vault's file system again (look at `dmesg` whether its disk fails), or start the controller with the right \
                     --vault",
                )
                .into_status(Code::Unavailable)
        }
        other if other.is_no_space() => {
            error!("{message}");
            system_error("vault_full", "the vault has no space left")
                .retryable()
                .action(
                    "make the vault's file system or quota larger; or delete points and run `holdfast vault gc`. Never remove files of \
                     the vault by hand",
                )
                .into_status(Code::ResourceExhausted)
        }
        other if other.is_damage() => {
            error!("{message}");
            damaged(message)
        }
        other if other.is_invalid_input() => {
            agent_error("invalid_cell", message).into_status(Code::InvalidArgument)
        }
        _ => {
            error!(message, "the vault failed");
            system_error("vault_unavailable", "the vault's storage did not answer as it should")
                .retryable()
                .action(
                    vault_error.next_step().unwrap_or("try again; if it stays so, look at the gateway's log"),
                )
                .into_status(Code::Unavailable)
        }
    }
}

/// Something that may not be done to a point.
fn refused(refusal: &Refusal) -> Status {
    let (code, action) = match refusal {
        Refusal::Locked { .. } => (
            "point_locked",
            "wait until then; a governance lock can be taken back with `holdfast point unlock POINT`",
        ),
        Refusal::Compliance => ("lock_final", "wait until the lock ends"),
        Refusal::Shortened { .. } => {
            ("lock_shortened", "choose a later end; a governance lock can be taken back first")
        }
        Refusal::Doubtful { .. } => (
            "lock_doubtful",
            "correct the controllers' clocks; if they are right, say so with `holdfast vault gc --trust-clock`",
        ),
        Refusal::Past => ("lock_in_the_past", "choose a later end"),
        Refusal::Deleted => ("point_deleted", "`holdfast point undelete POINT` takes that back"),
        Refusal::Purged => ("point_purged", "`holdfast point list` shows the points that there are"),
        Refusal::Listed => {
            ("point_not_deleted", "`holdfast point list --deleted` shows the points that were deleted")
        }
    };
    user_error(code, format!("the point stays as it is: {refusal}"))
        .action(action)
        .into_status(Code::FailedPrecondition)
}

/// What the vault holds is not what was stored.
pub(crate) fn damaged(message: impl Into<String>) -> Status {
    system_error("damaged", message)
        .action("restore another point; the next backup of the machine sends again what is missing")
        .into_status(Code::DataLoss)
}

/// The caller has to open the transfer again.
pub(crate) fn reopen(message: &str) -> Status {
    system_error("transfer_closed", message).retryable().into_status(Code::Unavailable)
}

/// Another attempt took this one's place.
pub(crate) fn stale(attempt: i64) -> Status {
    agent_error("stale_attempt", format!("attempt {attempt} of the step is not current"))
        .into_status(Code::FailedPrecondition)
}

pub(crate) fn foreign() -> Status {
    agent_error("foreign_transfer", "the transfer is another agent's").into_status(Code::PermissionDenied)
}

/// A request that does not fit the transfer.
pub(crate) fn invalid(message: impl Into<String>) -> Status {
    agent_error("invalid_transfer", message).into_status(Code::InvalidArgument)
}

/// A frame that nothing is taken of.
pub(crate) fn invalid_cell(message: impl Into<String>) -> Status {
    agent_error("invalid_cell", message).into_status(Code::InvalidArgument)
}

pub(crate) fn busy(message: &str) -> Status {
    system_error("gateway_busy", message).retryable().action("try again later").into_status(Code::Unavailable)
}

pub(crate) fn internal() -> Status {
    system_error("internal", "the gateway's task ended unexpectedly")
        .retryable()
        .action("try again; if it stays so, the controller's log says why")
        .into_status(Code::Unavailable)
}
