//! Small conversions that several services need.

use chrono::{DateTime, Utc};
use tonic::Status;
use uuid::Uuid;

use holdfast_proto::v1;

use crate::domain::error::{Fault, JobError};
use crate::domain::job::Consistency;
use crate::store::page::{self, Page, PageSize, Sorted};
use crate::store::request::RequestKey;

use crate::rpc_error::invalid;

/// What the messages of one page take, at most, unless a single one is larger; clients take 4 MiB.
const PAGE_BYTES: usize = 3 << 20;

pub(super) fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.timestamp(),
        nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn consistency(consistency: Consistency) -> v1::Consistency {
    match consistency {
        Consistency::Application => v1::Consistency::Application,
        Consistency::FileSystem => v1::Consistency::FileSystem,
        Consistency::Crash => v1::Consistency::Crash,
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

/// A page that fits into a message: as many of the rows as do, at least one, and the token for what comes after them.
pub(super) fn fitting<T: Sorted, M: prost::Message>(
    page: Page<T>,
    to_wire: impl Fn(T) -> M,
) -> (Vec<M>, String) {
    let (mut messages, mut bytes, mut next) = (Vec::new(), 0, None);
    for row in page.rows {
        let after = page::token_after(&row);
        let message = to_wire(row);
        bytes += message.encoded_len();
        if bytes > PAGE_BYTES
            && let Some(next) = next
        {
            return (messages, next);
        }
        messages.push(message);
        next = Some(after);
    }
    (messages, page.next)
}

/// Reads a request id; the body is what must be equal in a repetition.
pub(super) fn request_key(id: &str, method: &'static str, body: &[u8]) -> Result<Option<RequestKey>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    let id = Uuid::parse_str(id).map_err(|_| invalid("invalid_request_id", "request_id must be a UUID"))?;
    Ok(Some(RequestKey { id, method, body_hash: *blake3::hash(body).as_bytes() }))
}

#[cfg(test)]
mod tests {
    use holdfast_proto::MAX_MESSAGE_BYTES;
    use prost::Message as _;

    use super::*;

    #[derive(Debug)]
    struct Row(usize, usize);

    impl Sorted for Row {
        fn sort_key(&self) -> String {
            format!("{:03}", self.0)
        }
    }

    /// All pages of rows of so many bytes, as somebody reads them who follows the tokens.
    fn pages(sizes: &[usize]) -> Vec<Vec<usize>> {
        let (mut pages, mut start) = (Vec::new(), 0);
        loop {
            let rows = sizes.iter().copied().enumerate().skip(start).map(|(index, size)| Row(index, size));
            let page = Page { rows: rows.collect(), next: String::new() };
            let (policies, next) = fitting(page, |row| v1::Policy {
                revision: i64::try_from(row.0).unwrap(),
                name: "x".repeat(row.1),
                ..v1::Policy::default()
            });
            pages.push(policies.iter().map(|policy| usize::try_from(policy.revision).unwrap()).collect());
            let answer =
                v1::ListPoliciesResponse { policies, next_page_token: next.clone(), unreadable: Vec::new() };
            assert!(answer.encoded_len() < MAX_MESSAGE_BYTES);
            let Some(last) = page::decode(&next).unwrap() else { return pages };
            start = last.parse::<usize>().unwrap() + 1;
        }
    }

    #[test]
    fn a_page_is_no_larger_than_a_message_and_nothing_is_left_out() {
        let large = 2_700_000;
        assert_eq!(pages(&[]), [[0; 0]]);
        assert_eq!(pages(&[10; 1000]), [(0..1000).collect::<Vec<_>>()]);
        assert_eq!(pages(&[large; 3]), [[0], [1], [2]]);
        assert_eq!(pages(&[PAGE_BYTES + 1000, 10, 10, large]), [vec![0], vec![1, 2, 3]]);
        assert_eq!(pages(&[10, PAGE_BYTES, 10]), [[0], [1], [2]]);
    }
}
