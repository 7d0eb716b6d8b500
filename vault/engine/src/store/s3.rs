//! A vault in a bucket. What is in the way of every request, such as limits and retries, is below the object store's interface:
//! each page of a listing and each retry counts.

mod credentials;
mod http;
mod object_lock;
mod pace;
mod requests;

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::client::{ClientConfigKey, HttpConnector as _};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

use crate::VaultError;
use crate::store::{Absence, Storage};

pub use credentials::S3Credentials;
pub(crate) use object_lock::{Answered, Bypass, ObjectLock};

use http::PacedConnector;
use requests::Requests;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest pause between two tries of a request.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A bucket, or a part of one, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    pub location: S3Location,
    /// URL without the bucket. None: `AWS_ENDPOINT_URL`, or Amazon's for the region.
    pub endpoint: Option<String>,
    /// None: `AWS_REGION`, or `us-east-1`.
    pub region: Option<String>,
    pub addressing: S3Addressing,
    pub transport: S3Transport,
    /// PEM file with the authorities that the endpoint's certificate may be of, instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub credentials: S3Credentials,
    pub limits: S3Limits,
    pub object_lock: S3ObjectLock,
}

/// Where in S3: `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    bucket: String,
    prefix: Path,
}

/// How a bucket is named to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum S3Addressing {
    /// In the path of the URL, which every server understands.
    #[default]
    Path,
    /// As the first part of the host's name.
    VirtualHost,
}

/// Whether requests may go without TLS. Objects are sealed either way, but who listens can delay, drop and replay them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum S3Transport {
    #[default]
    TlsOnly,
    PlainAllowed,
}

/// Whether the server has to enforce locks of points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum S3ObjectLock {
    /// Locks are Holdfast's own: whoever may delete objects of the bucket is not kept from it.
    #[default]
    Unused,
    /// The bucket is versioned and has Object Lock, which is tried before it is relied on.
    Required,
}

/// What is asked of the server at most, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S3Limits {
    pub requests_in_flight: NonZeroU32,
    /// None: as many as there are.
    pub requests_per_second: Option<NonZeroU32>,
    /// Up and down together. None: as many as there are.
    pub bytes_per_second: Option<NonZeroU64>,
    /// For one try of one request, with its body: a segment has 32 MiB.
    pub request_timeout: Duration,
    /// No try of a request begins later than this after the first. At most 4 minutes: a signature is valid for 15, credentials
    /// may be for less.
    pub retry_for: Duration,
}

impl Default for S3Limits {
    fn default() -> Self {
        Self {
            requests_in_flight: NonZeroU32::MIN.saturating_add(63),
            requests_per_second: None,
            bytes_per_second: None,
            request_timeout: Duration::from_secs(120),
            retry_for: Duration::from_secs(120),
        }
    }
}

impl S3 {
    /// With everything else as usual.
    #[must_use]
    pub fn at(location: S3Location) -> Self {
        Self {
            location,
            endpoint: None,
            region: None,
            addressing: S3Addressing::default(),
            transport: S3Transport::default(),
            ca_file: None,
            credentials: S3Credentials::Environment,
            limits: S3Limits::default(),
            object_lock: S3ObjectLock::default(),
        }
    }

    /// With what Amazon's environment variables say where nothing was given; credentials stay where they are.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let environment = AmazonS3Builder::from_env();
        let given = |key| environment.get_config_value(&key).filter(|value| !value.is_empty());
        let endpoint = self
            .endpoint
            .clone()
            .or_else(|| given(AmazonS3ConfigKey::S3Endpoint))
            .or_else(|| given(AmazonS3ConfigKey::Endpoint));
        let region = self.region.clone().or_else(|| given(AmazonS3ConfigKey::Region));
        let transport = match given(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)).as_deref() {
            Some("true" | "1") => S3Transport::PlainAllowed,
            _ => self.transport,
        };
        Self { endpoint, region, transport, ..self.clone() }
    }

    fn wrong(&self, detail: impl Into<String>) -> VaultError {
        VaultError::S3Settings { location: self.location.to_string(), detail: detail.into() }
    }

    fn client_options(&self, transport: S3Transport) -> Result<ClientOptions, VaultError> {
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(self.limits.request_timeout)
            .with_allow_http(transport == S3Transport::PlainAllowed);
        let Some(path) = &self.ca_file else { return Ok(options) };
        let certificates = read_certificates(path).map_err(|detail| self.wrong(detail))?;
        Ok(certificates
            .into_iter()
            .fold(options.with_no_system_certificates(true), ClientOptions::with_root_certificate))
    }

    /// With the options for its connections, which other requests take as well.
    fn builder(&self) -> Result<(AmazonS3Builder, ClientOptions), VaultError> {
        let Self { endpoint, region, transport, .. } = self.resolved();
        let options = self.client_options(transport)?;
        let mut builder = self
            .credentials
            .begin(AmazonS3Builder::from_env())?
            .with_bucket_name(&self.location.bucket)
            .with_virtual_hosted_style_request(self.addressing == S3Addressing::VirtualHost)
            .with_client_options(options.clone());
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = endpoint {
            let endpoint = self.check_endpoint(endpoint, transport)?;
            // Both, because Amazon's variable for S3 alone would win.
            builder = builder.with_endpoint(&endpoint).with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        Ok((builder, options))
    }

    /// The URL to which the client adds the bucket, unless it is in the host's name already.
    fn check_endpoint(&self, endpoint: String, transport: S3Transport) -> Result<String, VaultError> {
        let (scheme, host) = endpoint
            .split_once("://")
            .ok_or_else(|| self.wrong(format!("the endpoint {endpoint:?} does not begin with https://")))?;
        match (scheme, transport) {
            ("https", _) | ("http", S3Transport::PlainAllowed) => {}
            ("http", S3Transport::TlsOnly) => return Err(VaultError::PlainHttp { endpoint }),
            _ => return Err(self.wrong(format!("the endpoint {endpoint:?} is no URL of a web server"))),
        }
        Ok(match self.addressing {
            S3Addressing::Path => endpoint,
            S3Addressing::VirtualHost => format!("{scheme}://{}.{host}", self.location.bucket),
        })
    }
}

impl Storage {
    /// Objects in a bucket, which must exist. Nothing is asked of it yet.
    ///
    /// # Errors
    /// If the settings contradict each other, or a file that they name cannot be used.
    pub fn s3(s3: &S3) -> Result<Self, VaultError> {
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: MAX_PAUSE, ..BackoffConfig::default() },
            retry_timeout: s3.limits.retry_for,
            // Ten, as is usual, would be over after some seconds.
            max_retries: usize::MAX,
        };
        let connector = PacedConnector::new(s3.limits);
        let (builder, options) = s3.builder()?;
        let builder = builder
            // Whatever the environment says: every object is created once.
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // One object at a time is deleted; not every server knows the other request.
            .with_disable_bulk_delete(true)
            .with_retry(retry)
            .with_http_connector(connector.clone());
        let wrong = |error: object_store::Error| s3.wrong(error.to_string());
        let store = PrefixStore::new(builder.build().map_err(wrong)?, s3.location.prefix.clone());
        let object_lock = match s3.object_lock {
            S3ObjectLock::Unused => None,
            S3ObjectLock::Required => {
                let client = connector.connect(&options).map_err(wrong)?;
                let requests = Requests { signer: store.clone(), client, retry_for: s3.limits.retry_for };
                Some(Arc::new(ObjectLock(requests)))
            }
        };
        let (patience, absence) = (s3.limits.retry_for, Absence::Code);
        Ok(Self { patience, absence, object_lock, ..Self::over(Arc::new(store)) })
    }
}

impl std::str::FromStr for S3Location {
    type Err = VaultError;

    fn from_str(url: &str) -> Result<Self, VaultError> {
        let wrong =
            |detail: &str| VaultError::S3Settings { location: url.to_owned(), detail: detail.to_owned() };
        let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |symbol: char| symbol.is_ascii_alphanumeric() || matches!(symbol, '-' | '.' | '_');
        if bucket.is_empty() || !bucket.chars().all(fits) {
            return Err(wrong(
                "write it like s3://bucket/prefix, with a bucket of letters, digits, dots and hyphens",
            ));
        }
        let prefix = Path::parse(prefix).map_err(|_| wrong("its prefix has an empty or impossible part"))?;
        // What must be escaped in a URL is signed differently by different servers.
        let plain = |symbol: char| fits(symbol) || symbol == '/';
        if !prefix.as_ref().chars().all(plain) {
            return Err(wrong("its prefix may have letters, digits, dots, hyphens, underscores and slashes"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.as_ref().is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

fn read_certificates(path: &FilePath) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(path)
        .map_err(|error| format!("the CA file {} cannot be read: {error}", path.display()))?;
    let certificates = Certificate::from_pem_bundle(&pem)
        .map_err(|error| format!("the CA file {} is not right: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("the CA file {} has no certificate in PEM", path.display()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests;
