//! The one place where the controller's errors become gRPC statuses.

use tonic::{Code, Status};
use tracing::error;

use holdfast_proto::error::{ErrorDetail, ErrorDetailExt as _, agent_error, system_error, user_error};

use crate::store::StoreError;

/// What a caller gets to know of a store error. Internal ones are logged here and nowhere else.
impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let (code, detail) = describe(&error);
        detail.into_status(code)
    }
}

fn describe(error: &StoreError) -> (Code, ErrorDetail) {
    let message = error.to_string();
    match error {
        StoreError::NotFound { noun: "point", name } if name.ends_with("@latest") => (
            Code::NotFound,
            user_error("point_not_found", message).action(
                "the machine has no point that is whole: `holdfast point list MACHINE` shows what there is",
            ),
        ),
        StoreError::NotFound { noun, .. } => (
            Code::NotFound,
            user_error(&format!("{noun}_not_found"), message).action(match *noun {
                "machine" => "`holdfast machine list` shows the machines",
                "job" => "`holdfast job list` shows the jobs",
                "point" => "a point is an id or MACHINE@latest; `holdfast point list` shows the points",
                "policy" => "`holdfast policy list` shows the policies",
                "step" => "its job is forgotten, and there is nothing to do; `holdfast job list` shows the jobs that are there",
                "token" => "a token is named by its id, never by itself; `holdfast token list --all` shows the ids",
                "agent" => "enrol it again with a new token of `holdfast token create`",
                _ => "",
            }),
        ),
        StoreError::NameTaken { .. } => (
            Code::AlreadyExists,
            user_error("name_taken", message).action(
                "enrol with another --name; or, to take that machine's place, with a token of \
                 `holdfast token create --machine NAME`",
            ),
        ),
        StoreError::MachineRemoved { id, .. } => (
            Code::FailedPrecondition,
            user_error("machine_removed", message).action(format!(
                "its points are there: `holdfast point list {id}`; to protect it anew, enrol its agent with a token of \
                 `holdfast token create`"
            )),
        ),
        StoreError::MachineQuarantined { .. } => (
            Code::FailedPrecondition,
            user_error("machine_quarantined", message).action(
                "stop the copy's agent, remove its state directory and enrol it as a machine of its own; then \
                 `holdfast machine lift-quarantine MACHINE` lets the original go on",
            ),
        ),
        StoreError::NoAgent { name } => (
            Code::FailedPrecondition,
            user_error("no_agent", message)
                .action(format!("enrol its agent with a token of `holdfast token create --machine {name}`")),
        ),
        StoreError::MachineBusy { job } => (
            Code::FailedPrecondition,
            user_error("machine_busy", message)
                .action(format!("wait for its end with `holdfast job wait {job}`, or `holdfast job cancel {job}`; if the machine died, try again in a minute")),
        ),
        StoreError::OtherMachine { name, .. } => (
            Code::InvalidArgument,
            user_error("other_machine", message).action(format!("give --name {name}")),
        ),
        StoreError::TokenRefused => (
            Code::Unauthenticated,
            user_error("token_refused", message).action("make a new one with `holdfast token create`"),
        ),
        StoreError::TokenRevoked => (
            Code::Unauthenticated,
            user_error("token_revoked", message)
                .action("ask whoever revoked it; a new one is made by `holdfast token create`"),
        ),
        StoreError::RequestReused { .. } => (
            Code::AlreadyExists,
            user_error("request_reused", message)
                .action("give each request an id of its own, and the same one only to its repetitions"),
        ),
        StoreError::JobEnded { .. } => (
            Code::FailedPrecondition,
            user_error("job_ended", message)
                .action("nothing is left to stop; `holdfast job show JOB` tells how it ended"),
        ),
        StoreError::KeyNameTaken { .. } => (Code::AlreadyExists, user_error("name_taken", message)),
        StoreError::NoSuchDisk { .. } => (
            Code::NotFound,
            user_error("disk_not_found", message).action("`holdfast machine show MACHINE` lists its disks"),
        ),
        StoreError::TooManyLabels => (
            Code::InvalidArgument,
            user_error("invalid_label", message)
                .action("`holdfast machine show MACHINE` lists its labels: remove some, or give fewer"),
        ),
        StoreError::PolicyChanged { .. } => (
            Code::Aborted,
            user_error("policy_changed", message).action(
                "read it again with `holdfast policy show NAME -o yaml`, and apply your change to that",
            ),
        ),
        StoreError::ForeignStep => (Code::PermissionDenied, agent_error("foreign_step", message)),
        StoreError::StaleAttempt { .. } => (Code::FailedPrecondition, agent_error("stale_attempt", message)),
        StoreError::Cancelling => (Code::FailedPrecondition, user_error("cancelled", message)),
        error if error.is_unstorable_text() => {
            let message = "a text holds a character, such as NUL, that nothing here has in its name";
            (Code::InvalidArgument, user_error("invalid_text", message))
        }
        StoreError::Url { .. }
        | StoreError::Connect { .. }
        | StoreError::Refused { .. }
        | StoreError::Migrate { .. }
        | StoreError::Query { .. }
        | StoreError::TimedOut { .. }
        | StoreError::Task { .. } => {
            error!(error = error as &dyn std::error::Error, "the database failed");
            let detail =
                system_error("database_unavailable", "the controller's database did not answer as it should")
                    .retryable()
                    .action("check that Postgres runs; the controller's log says what it answered");
            (Code::Unavailable, detail)
        }
        StoreError::Corrupt { .. } => {
            error!(error = error as &dyn std::error::Error, "the database holds something unknown");
            (Code::Internal, system_error("database_corrupt", message))
        }
    }
}

/// Whether what was asked could not be asked at all, so that asking for something else would fail as well.
pub(crate) fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

/// INVALID_ARGUMENT with a code of its own.
pub(crate) fn invalid(code: &str, message: impl Into<String>) -> Status {
    user_error(code, message).into_status(Code::InvalidArgument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_can_do_is_said() {
        let missing = |noun| StoreError::NotFound { noun, name: "x".to_owned() };
        for error in [
            missing("machine"),
            missing("job"),
            missing("point"),
            missing("policy"),
            missing("step"),
            missing("agent"),
            missing("token"),
            StoreError::TokenRefused,
            StoreError::TokenRevoked,
            StoreError::RequestReused { id: uuid::Uuid::nil() },
            StoreError::TooManyLabels,
            StoreError::MachineQuarantined { reason: "copied".to_owned() },
        ] {
            assert_ne!(describe(&error).1.action, "", "{error:?}");
        }
    }
}
