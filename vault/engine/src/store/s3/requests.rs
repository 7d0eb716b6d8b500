//! Requests of S3 that the object store's interface does not have. They are signed by its client, sent within the same limits, and tried
//! again in the same way.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use md5::{Digest as _, Md5};
use object_store::Error;
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpError, HttpRequest};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::{SignedUrlOptions, Signer as _};
use tokio::time::Instant;
use tracing::info;

use super::http::whole;

/// How long a signature is valid: clocks may differ by as much.
const VALID: Duration = Duration::from_secs(15 * 60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Of what a server says, so much is told.
const MAX_SAID: usize = 2 << 10;

/// A request that may be repeated.
#[derive(Debug)]
pub(super) struct Request<'r> {
    pub(super) method: Method,
    pub(super) object: &'r str,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) body: String,
}

/// An answer that another try would not change.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Bytes,
}

#[derive(Debug)]
pub(super) struct Requests {
    pub(super) signer: PrefixStore<AmazonS3>,
    pub(super) client: HttpClient,
    /// No try begins later than this after the first.
    pub(super) retry_for: Duration,
}

impl Requests {
    /// # Errors
    /// If there is no answer, or after all tries still one that says to come again.
    pub(super) async fn send(&self, request: &Request<'_>) -> object_store::Result<Answer> {
        let give_up_at = Instant::now() + self.retry_for;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.send_once(request).await {
                Ok(answer) if !answer.says_to_come_again() => return Ok(answer),
                Ok(answer) => answer.into_error(request.object),
                Err(error) => error,
            };
            let wait = pause.mul_f64(rand::random());
            if Instant::now() + wait >= give_up_at {
                return Err(error);
            }
            info!(
                object = request.object,
                error = &error as &dyn std::error::Error,
                "a request failed: again"
            );
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(super::MAX_PAUSE);
        }
    }

    async fn send_once(&self, request: &Request<'_>) -> object_store::Result<Answer> {
        let generic =
            |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic { store: "S3", source };
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        if !request.body.is_empty() {
            // Amazon wants a checksum of what it is to enforce; this is the one that every server knows.
            let digest = STANDARD.encode(Md5::digest(request.body.as_bytes()));
            headers.insert("content-md5", digest.parse().map_err(|error| generic(Box::new(error)))?);
        }
        let mut options =
            SignedUrlOptions::new().with_query(request.query.iter().map(|(name, value)| (*name, value)));
        options.signed_headers = headers.clone();
        let path = Path::from(request.object);
        let url = self.signer.signed_url_opts(request.method.clone(), &path, VALID, &options).await?;
        let mut sent = HttpRequest::new(request.body.clone().into());
        *sent.method_mut() = request.method.clone();
        *sent.uri_mut() = url.as_str().parse().map_err(|error| generic(Box::new(error)))?;
        *sent.headers_mut() = headers;
        let failed = |error: HttpError| generic(Box::new(error));
        let answer = whole(self.client.execute(sent).await.map_err(failed)?).await.map_err(failed)?;
        let (parts, body) = answer.into_parts();
        let body = body.bytes().await.map_err(failed)?;
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

impl Answer {
    fn says_to_come_again(&self) -> bool {
        let is_final = self.status == StatusCode::NOT_IMPLEMENTED;
        let is_passing = matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        is_passing || (self.status.is_server_error() && !is_final)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// As the object store tells what it was refused.
    pub(super) fn into_error(self, object: &str) -> Error {
        let (path, status) = (object.to_owned(), self.status);
        let source = Box::new(Unexpected { status, said: self.said() });
        match status {
            StatusCode::FORBIDDEN => Error::PermissionDenied { path, source },
            StatusCode::UNAUTHORIZED => Error::Unauthenticated { path, source },
            StatusCode::NOT_FOUND => Error::NotFound { path, source },
            _ => Error::Generic { store: "S3", source },
        }
    }

    fn said(&self) -> String {
        let said = String::from_utf8_lossy(&self.body[..self.body.len().min(MAX_SAID)]);
        said.trim().to_owned()
    }

    /// What a server says in XML: a code, and a message if it has one.
    pub(super) fn reason(&self) -> String {
        let said = self.said();
        let between = |start, end| said.split_once(start).and_then(|(_, rest)| Some(rest.split_once(end)?.0));
        match (between("<Code>", "</Code>"), between("<Message>", "</Message>")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            (None, _) => self.status.to_string(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the server answered {status}: {said}")]
struct Unexpected {
    status: StatusCode,
    said: String,
}
