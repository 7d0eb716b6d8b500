//! [`ErrorDetail`] is what people and programs see of an error, wherever it came from. Over gRPC it travels in
//! a binary trailer next to the status, so that a client never has to parse a sentence.

use prost::Message as _;
use tonic::metadata::{BinaryMetadataValue, KeyAndValueRef};
use tonic::{Code, Status};

pub use crate::v1::{ErrorDetail, Fault};

/// The trailer that carries an encoded [`ErrorDetail`].
pub const ERROR_TRAILER: &str = "holdfast-error-bin";

/// Of a message or an action. Percent-encoded, and once more in base64, both stay below the 16 KiB that peers take as headers.
const MAX_TEXT_BYTES: usize = 2 << 10;

/// Builds a detail that the user has to act on.
#[must_use]
pub fn user_error(code: &str, message: impl Into<String>) -> ErrorDetail {
    detail(code, Fault::User, message)
}

/// Builds a detail that lies with the controller, its database or the vault.
#[must_use]
pub fn system_error(code: &str, message: impl Into<String>) -> ErrorDetail {
    detail(code, Fault::System, message)
}

/// Builds a detail that lies with the agent or its machine.
#[must_use]
pub fn agent_error(code: &str, message: impl Into<String>) -> ErrorDetail {
    detail(code, Fault::Agent, message)
}

fn detail(code: &str, fault: Fault, message: impl Into<String>) -> ErrorDetail {
    ErrorDetail {
        code: code.to_owned(),
        fault: fault.into(),
        retryable: false,
        message: message.into(),
        action: String::new(),
    }
}

/// What can be done with an [`ErrorDetail`] besides reading it.
pub trait ErrorDetailExt {
    /// Says what to do next.
    #[must_use]
    fn action(self, action: impl Into<String>) -> Self;
    /// Marks it as worth another try without any change.
    #[must_use]
    fn retryable(self) -> Self;
    /// Wraps it for the wire. Message and action are cut off after 2 KiB each: they may repeat what a caller sent, and
    /// trailers that are too large break the connection instead of telling anything.
    fn into_status(self, code: Code) -> Status;
}

impl ErrorDetailExt for ErrorDetail {
    fn action(mut self, action: impl Into<String>) -> Self {
        self.action = action.into();
        self
    }

    fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    fn into_status(mut self, code: Code) -> Status {
        cut(&mut self.message);
        cut(&mut self.action);
        let mut status = Status::new(code, self.message.clone());
        status
            .metadata_mut()
            .insert_bin(ERROR_TRAILER, BinaryMetadataValue::from_bytes(&self.encode_to_vec()));
        status
    }
}

fn cut(text: &mut String) {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('…');
    }
}

/// Reads the detail of a status; one without a trailer (from the transport, or a foreign server) is
/// described by its code.
#[must_use]
pub fn detail_of(status: &Status) -> ErrorDetail {
    for entry in status.metadata().iter() {
        if let KeyAndValueRef::Binary(key, value) = entry
            && key.as_str() == ERROR_TRAILER
            && let Ok(bytes) = value.to_bytes()
            && let Ok(detail) = ErrorDetail::decode(bytes)
        {
            return detail;
        }
    }
    let (code, fault, retryable) = match status.code() {
        Code::Unavailable => ("unavailable", Fault::System, true),
        Code::DeadlineExceeded => ("deadline_exceeded", Fault::System, true),
        Code::Cancelled => ("cancelled", Fault::System, true),
        Code::ResourceExhausted => ("resource_exhausted", Fault::System, true),
        Code::Unauthenticated => ("unauthenticated", Fault::User, false),
        Code::PermissionDenied => ("permission_denied", Fault::User, false),
        Code::InvalidArgument => ("invalid_argument", Fault::User, false),
        Code::NotFound => ("not_found", Fault::User, false),
        Code::AlreadyExists => ("already_exists", Fault::User, false),
        Code::FailedPrecondition => ("failed_precondition", Fault::User, false),
        Code::Unimplemented => ("unimplemented", Fault::System, false),
        Code::DataLoss => ("data_loss", Fault::System, false),
        _ => ("internal", Fault::System, false),
    };
    ErrorDetail {
        code: code.to_owned(),
        fault: fault.into(),
        retryable,
        message: status.message().to_owned(),
        action: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_sent_cannot_make_the_trailers_too_large() {
        let echo = "ä".repeat(1 << 20);
        let status = user_error("invalid", &echo).action(&echo).into_status(Code::InvalidArgument);
        let detail = detail_of(&status);
        assert_eq!(detail.code, "invalid");
        assert!(detail.message.starts_with("ää") && detail.message.ends_with('…'));
        assert_eq!(detail.message, status.message());
        let headers = status.into_http::<()>().into_parts().0.headers;
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < 16 << 10, "{bytes}");
    }

    #[test]
    fn a_short_text_stays_whole() {
        let detail = user_error("invalid", "name: \"ä\"").action("change it");
        assert_eq!(detail_of(&detail.clone().into_status(Code::NotFound)), detail);
    }
}
