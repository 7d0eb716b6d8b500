//! Versions of objects, and what a bucket with Object Lock retains of them.

use chrono::{DateTime, SecondsFormat, Utc};
use http::{Method, StatusCode};

use holdfast_vault_format::event::LockMode;

use crate::VaultError;
use crate::retention::Retention;

use super::requests::{Answer, Request, Requests};

const VERSION: &str = "x-amz-version-id";
const MODE: &str = "x-amz-object-lock-mode";
const UNTIL: &str = "x-amz-object-lock-retain-until-date";
/// What versions are called that were written while their bucket was not versioned.
const NULL: &str = "null";

/// A bucket that is to have Object Lock.
#[derive(Debug)]
pub(crate) struct ObjectLock(pub(super) Requests);

/// The current version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// `None` if the bucket is not versioned.
    pub(crate) id: Option<String>,
    /// It may be over.
    pub(crate) retention: Option<Retention>,
}

/// What a server made of a request about a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Done,
    Denied,
    /// There is no such version.
    Missing,
    /// It does not know what is asked for, or cannot do it in this bucket.
    Unable {
        said: String,
    },
}

impl ObjectLock {
    /// # Errors
    /// [`VaultError::Missing`] if there is no such object, or it was deleted.
    pub(crate) async fn version(&self, object: &str) -> Result<Version, VaultError> {
        let request = Request {
            method: Method::HEAD,
            object,
            query: Vec::new(),
            headers: Vec::new(),
            body: String::new(),
        };
        let failed = |source| VaultError::storage("look at the version of", object, source);
        let answer = self.0.send(&request).await.map_err(failed)?;
        if answer.status != StatusCode::OK {
            return Err(failed(answer.into_error(object)));
        }
        let id = answer.header(VERSION).filter(|id| *id != NULL).map(str::to_owned);
        Ok(Version { id, retention: retention(&answer) })
    }

    /// Asks to retain a version. Nothing that lifts or shortens what is retained is ever asked for, but by whoever tries the server.
    pub(crate) async fn retain(
        &self,
        object: &str,
        version: &str,
        retention: Retention,
        bypass: Bypass,
    ) -> Result<Answered, VaultError> {
        let headers = match bypass {
            Bypass::Nothing => Vec::new(),
            Bypass::Governance => vec![("x-amz-bypass-governance-retention", "true")],
        };
        let query = vec![("retention", String::new()), ("versionId", version.to_owned())];
        let body = document(retention);
        self.ask("retain", Request { method: Method::PUT, object, query, headers, body }).await
    }

    /// Deletes a version for good, if it is not retained.
    pub(crate) async fn delete_version(&self, object: &str, version: &str) -> Result<Answered, VaultError> {
        let query = vec![("versionId", version.to_owned())];
        let request =
            Request { method: Method::DELETE, object, query, headers: Vec::new(), body: String::new() };
        self.ask("delete a version of", request).await
    }

    async fn ask(&self, operation: &'static str, request: Request<'_>) -> Result<Answered, VaultError> {
        let failed = |source| VaultError::storage(operation, request.object, source);
        let answer = self.0.send(&request).await.map_err(failed)?;
        match answer.status {
            status if status.is_success() => Ok(Answered::Done),
            StatusCode::FORBIDDEN if answer.reason().starts_with("AccessDenied") => Ok(Answered::Denied),
            StatusCode::NOT_FOUND => Ok(Answered::Missing),
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Ok(Answered::Unable { said: answer.reason() })
            }
            _ => Err(failed(answer.into_error(request.object))),
        }
    }
}

/// What a request wants to be let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bypass {
    Nothing,
    /// Amazon makes a compliance retention out of a governance one only for whoever may lift that.
    Governance,
}

fn retention(answer: &Answer) -> Option<Retention> {
    let mode = match answer.header(MODE)? {
        "GOVERNANCE" => LockMode::Governance,
        "COMPLIANCE" => LockMode::Compliance,
        _ => return None,
    };
    let until = answer.header(UNTIL)?;
    let until = DateTime::parse_from_rfc3339(until).or_else(|_| DateTime::parse_from_rfc2822(until)).ok()?;
    Some(Retention { mode, until: until.with_timezone(&Utc) })
}

fn document(Retention { mode, until }: Retention) -> String {
    let mode = match mode {
        LockMode::Governance => "GOVERNANCE",
        LockMode::Compliance => "COMPLIANCE",
    };
    let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!(
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
         <RetainUntilDate>{until}</RetainUntilDate></Retention>"
    )
}
