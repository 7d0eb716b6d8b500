//! Why a storage cannot be used at all, as far as its answers tell.

use std::error::Error;
use std::fmt;

/// Something that stays so until somebody corrects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    NoCredentials,
    UnknownAccessKey,
    WrongSecret,
    Denied,
    NoBucket,
    WrongRegion,
    ClockSkew,
    Certificate,
    NoTls,
    Unreachable,
    NotS3,
}

impl Problem {
    /// Reads an error; what a server says, it says in XML with a code.
    pub(crate) fn of(error: &object_store::Error) -> Option<Self> {
        let text = whole(error);
        let code = text.split_once("<Code>").and_then(|(_, rest)| Some(rest.split_once("</Code>")?.0));
        let said = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match code {
            Some("InvalidAccessKeyId") => Some(Self::UnknownAccessKey),
            Some("SignatureDoesNotMatch") => Some(Self::WrongSecret),
            Some("RequestTimeTooSkewed") => Some(Self::ClockSkew),
            Some("NoSuchBucket") => Some(Self::NoBucket),
            Some(
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
            ) => Some(Self::WrongRegion),
            Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem") => Some(Self::Denied),
            Some(_) => None,
            None => match error {
                object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. } => Some(Self::Denied),
                _ if said(&["169.254.169.254", "169.254.170.2"]) => Some(Self::NoCredentials),
                _ if said(&["without LOCATION"]) => Some(Self::WrongRegion),
                _ if said(&["invalid peer certificate", "CA certificates"]) => Some(Self::Certificate),
                _ if said(&["InvalidContentType", "received corrupt message"]) => Some(Self::NoTls),
                _ if said(&["error trying to connect", "client error (Connect)", "dns error"]) => {
                    Some(Self::Unreachable)
                }
                object_store::Error::Generic { store: "S3", .. }
                    if said(&["405 Method Not Allowed", "501 Not"]) =>
                {
                    Some(Self::NotS3)
                }
                _ => None,
            },
        }
    }

    /// Whether the server itself says that there is no such object. A 404 alone may be the word of something in front of it.
    pub(crate) fn is_no_such_key(error: &object_store::Error) -> bool {
        whole(error).contains("<Code>NoSuchKey</Code>")
    }

    /// Whether the storage, or what of it this key may use, is full.
    pub(crate) fn is_full(error: &object_store::Error) -> bool {
        let text = whole(error);
        ["QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull"]
            .iter()
            .any(|code| text.contains(&format!("<Code>{code}</Code>")))
    }

    /// What to do about it.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Self::NoCredentials => {
                "name access_key_id_file and secret_access_key_file in [vault], or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            Self::UnknownAccessKey => "check the access key, and that it is of this endpoint",
            Self::WrongSecret => "check the secret access key: it is not the one of this access key",
            Self::Denied => {
                "let this key list the bucket and get, put and delete its objects: docs/operating.md has a policy to copy"
            }
            Self::NoBucket => "check the bucket's name, or make the bucket",
            Self::WrongRegion => "set region to the bucket's",
            Self::ClockSkew => {
                "correct the clock of this machine (or of the server): requests are signed with the time"
            }
            Self::Certificate => {
                "name the authority of the endpoint's certificate with ca_file, and check the endpoint's name"
            }
            Self::NoTls => {
                "the endpoint answers without TLS: check its port, or write http:// and set allow_http"
            }
            Self::Unreachable => {
                "check the endpoint's name and port, and that this machine may connect to it"
            }
            Self::NotS3 => "check the endpoint: what answers there does not speak S3",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCredentials => "there are no credentials for it",
            Self::UnknownAccessKey => "it does not know the access key",
            Self::WrongSecret => "the secret access key is wrong",
            Self::Denied => "it denies access",
            Self::NoBucket => "there is no such bucket",
            Self::WrongRegion => "the bucket is in another region",
            Self::ClockSkew => "its clock and this machine's differ too much",
            Self::Certificate => "its certificate is not trusted",
            Self::NoTls => "it does not speak TLS",
            Self::Unreachable => "it cannot be reached",
            Self::NotS3 => "it does not speak S3",
        })
    }
}

/// An error with its causes. Those of the object store repeat theirs, which does no harm here.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push('\n');
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_understood() {
        let generic = |text: &str| object_store::Error::Generic { store: "S3", source: text.into() };
        for (text, expected) in [
            ("403: <Error><Code>RequestTimeTooSkewed</Code></Error>", Some(Problem::ClockSkew)),
            ("403: <Error><Code>InvalidAccessKeyId</Code></Error>", Some(Problem::UnknownAccessKey)),
            ("403: <Error><Code>SignatureDoesNotMatch</Code></Error>", Some(Problem::WrongSecret)),
            ("400: <Error><Code>AuthorizationHeaderMalformed</Code></Error>", Some(Problem::WrongRegion)),
            ("404: <Error><Code>NoSuchBucket</Code></Error>", Some(Problem::NoBucket)),
            ("503: <Error><Code>SlowDown</Code></Error>", None),
            ("500: <Error><Code>InternalError</Code></Error>", None),
            ("operation timed out", None),
        ] {
            assert_eq!(Problem::of(&generic(text)), expected, "{text}");
        }
        let denied =
            |text: &str| object_store::Error::PermissionDenied { path: "x".to_owned(), source: text.into() };
        assert_eq!(Problem::of(&denied("<Code>AccessDenied</Code>")), Some(Problem::Denied));
        assert_eq!(Problem::of(&denied("")), Some(Problem::Denied));
        let missing = object_store::Error::NotFound {
            path: "vault.json".to_owned(),
            source: "<Code>NoSuchKey</Code>".into(),
        };
        assert_eq!(Problem::of(&missing), None);
        assert!(Problem::is_no_such_key(&missing));
        let unsaid = object_store::Error::NotFound { path: "vault.json".to_owned(), source: "<html>".into() };
        assert!(!Problem::is_no_such_key(&unsaid));
        let full = denied("<Code>QuotaExceeded</Code>");
        assert!(Problem::is_full(&full) && Problem::of(&full).is_none());
        assert!(!Problem::is_full(&denied("<Code>AccessDenied</Code>")));
    }
}
