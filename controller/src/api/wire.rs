//! Small conversions that several services need.

use chrono::{DateTime, Utc};
use tonic::Status;
use uuid::Uuid;

use holdfast_proto::v1;

use crate::domain::error::{Fault, JobError};
use crate::store::page::{self, PageSize};
use crate::store::request::RequestKey;

use crate::rpc_error::invalid;

pub(super) fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.timestamp(),
        nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn consistency(text: &str) -> v1::Consistency {
    match text {
        "application" => v1::Consistency::Application,
        "file_system" => v1::Consistency::FileSystem,
        "crash" => v1::Consistency::Crash,
        _ => v1::Consistency::Unspecified,
    }
}

pub(super) fn error_detail(error: JobError) -> v1::ErrorDetail {
    let fault = match error.fault {
        Fault::User => v1::Fault::User,
        Fault::System => v1::Fault::System,
        Fault::Agent => v1::Fault::Agent,
    };
    v1::ErrorDetail {
        code: error.code,
        fault: fault.into(),
        retryable: error.retryable,
        message: error.message,
        action: error.action,
    }
}

pub(super) fn page_size(wanted: i32) -> Result<PageSize, Status> {
    PageSize::new(wanted).ok_or_else(|| invalid("invalid_page_size", "page_size must be 1 to 1000"))
}

/// The sort key of a page token, read by `parse`.
pub(super) fn page_after<T>(token: &str, parse: impl Fn(String) -> Option<T>) -> Result<Option<T>, Status> {
    let bad = || invalid("invalid_page_token", "page_token is not one that this service gave out");
    match page::decode(token).ok_or_else(bad)? {
        None => Ok(None),
        Some(key) => parse(key).map(Some).ok_or_else(bad),
    }
}

/// Reads a request id; the body is what must be equal in a repetition.
pub(super) fn request_key(id: &str, method: &'static str, body: &[u8]) -> Result<Option<RequestKey>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    let id = Uuid::parse_str(id).map_err(|_| invalid("invalid_request_id", "request_id must be a UUID"))?;
    Ok(Some(RequestKey { id, method, body_hash: *blake3::hash(body).as_bytes() }))
}
