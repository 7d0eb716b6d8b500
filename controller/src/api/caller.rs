use tonic::{Code, Request, Status};

use holdfast_gateway::{AgentIdentity, OperatorIdentity, Role};
use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::AgentId;

/// The operator behind a request; any role may read.
pub(crate) fn reader<T>(request: &Request<T>) -> Result<&OperatorIdentity, Status> {
    request.extensions().get::<OperatorIdentity>().ok_or_else(|| {
        user_error("no_api_key", "this call needs an API key")
            .action("set HOLDFAST_API_KEY_FILE to a file that holds the key")
            .into_status(Code::Unauthenticated)
    })
}

/// The operator behind a request that changes something.
pub(crate) fn admin<T>(request: &Request<T>) -> Result<&OperatorIdentity, Status> {
    let operator = reader(request)?;
    match operator.role {
        Role::Admin => Ok(operator),
        Role::Viewer => {
            Err(user_error("role_too_low", format!("the API key {:?} may only read", operator.name))
                .action("use a key of the role admin")
                .into_status(Code::PermissionDenied))
        }
    }
}

/// The agent behind a request.
pub(crate) fn agent<T>(request: &Request<T>) -> Result<AgentId, Status> {
    request.extensions().get::<AgentIdentity>().map(|identity| identity.0).ok_or_else(|| {
        user_error("no_certificate", "this call needs an agent's certificate")
            .into_status(Code::Unauthenticated)
    })
}
