//! What the errors of the command line say of a connection: no target has one.

use tonic::Status;

pub(crate) fn is_away(_: &Status) -> bool {
    false
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    error.to_string()
}
