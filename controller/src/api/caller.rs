use tonic::{Code, Request, Status};

use holdfast_gateway::{AgentIdentity, OperatorIdentity, Role};
use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::AgentId;

/// What an operator of any role asks.
pub(crate) fn reader<T>(request: Request<T>) -> Result<T, Status> {
    operator(&request)?;
    Ok(request.into_inner())
}

/// Who asks for a change, and what for.
pub(crate) fn admin<T>(request: Request<T>) -> Result<(String, T), Status> {
    let OperatorIdentity { name, role, .. } = operator(&request)?;
    match role {
        Role::Admin => Ok((name.clone(), request.into_inner())),
        Role::Viewer => Err(user_error("role_too_low", format!("the API key {name:?} may only read"))
            .action("use a key of the role admin")
            .into_status(Code::PermissionDenied)),
    }
}

/// The agent behind a request.
pub(crate) fn agent<T>(request: &Request<T>) -> Result<AgentId, Status> {
    request.extensions().get::<AgentIdentity>().map(|identity| identity.0).ok_or_else(|| {
        user_error("no_certificate", "this call needs an agent's certificate")
            .into_status(Code::Unauthenticated)
    })
}

fn operator<T>(request: &Request<T>) -> Result<&OperatorIdentity, Status> {
    request.extensions().get::<OperatorIdentity>().ok_or_else(|| {
        user_error("no_api_key", "this call needs an API key")
            .action("set HOLDFAST_API_KEY_FILE to a file that holds the key")
            .into_status(Code::Unauthenticated)
    })
}
