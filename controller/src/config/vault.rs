use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use holdfast_vault_engine::{
    S3, S3Addressing, S3Credentials, S3Limits, S3Location, S3ObjectLock, S3Transport, Storage, VaultError,
};

use super::duration;

const S3_SCHEME: &str = "s3://";

/// Where the vault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VaultPlace {
    Directory(PathBuf),
    S3(Box<S3>),
}

impl VaultPlace {
    /// Reads a path or `s3://BUCKET/PREFIX`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with(S3_SCHEME) {
            return Ok(Self::Directory(text.into()));
        }
        let location: S3Location = text.parse().map_err(|error: VaultError| error.to_string())?;
        Ok(Self::S3(Box::new(S3::at(location))))
    }

    /// # Errors
    /// If the folder is not there, or the settings of S3 cannot be used.
    pub(crate) fn storage(&self) -> Result<Storage, VaultError> {
        match self {
            Self::Directory(path) => Storage::directory(path),
            Self::S3(s3) => Storage::s3(s3),
        }
    }
}

impl fmt::Display for VaultPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::S3(s3) => s3.location.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for VaultPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;
        impl<'de> Visitor<'de> for Place {
            type Value = VaultPlace;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, s3://BUCKET/PREFIX, or a table [vault] with a url")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<VaultPlace, E> {
                VaultPlace::parse(text).map_err(E::custom)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<VaultPlace, M::Error> {
                let table = S3Table::deserialize(MapAccessDeserializer::new(map))?;
                table.settings().map(|s3| VaultPlace::S3(Box::new(s3))).map_err(M::Error::custom)
            }
        }
        deserializer.deserialize_any(Place)
    }
}

/// The table `[vault]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct S3Table {
    url: String,
    endpoint: Option<String>,
    region: Option<String>,
    #[serde(default = "yes")]
    path_style: bool,
    #[serde(default)]
    allow_http: bool,
    ca_file: Option<PathBuf>,
    access_key_id_file: Option<PathBuf>,
    secret_access_key_file: Option<PathBuf>,
    requests_in_flight: Option<NonZeroU32>,
    requests_per_second: Option<NonZeroU32>,
    bytes_per_second: Option<NonZeroU64>,
    #[serde(default = "request_timeout", deserialize_with = "duration::deserialize")]
    request_timeout: Duration,
    #[serde(default = "retry_for", deserialize_with = "duration::deserialize")]
    retry_for: Duration,
    #[serde(default)]
    object_lock: bool,
}

const MAX_IN_FLIGHT: u32 = 1024;
const REQUEST_TIMEOUT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(600)];
const MAX_RETRY: Duration = Duration::from_secs(240);

impl S3Table {
    fn settings(self) -> Result<S3, String> {
        if self.object_lock && !self.url.starts_with(S3_SCHEME) {
            return Err("object_lock is for a vault in S3: a folder enforces no locks".to_owned());
        }
        let location = self.url.parse().map_err(|error: VaultError| error.to_string())?;
        let credentials = match (self.access_key_id_file, self.secret_access_key_file) {
            (Some(access_key_id), Some(secret_access_key)) => {
                S3Credentials::Files { access_key_id, secret_access_key }
            }
            (None, None) => S3Credentials::Environment,
            _ => return Err("access_key_id_file and secret_access_key_file go together".to_owned()),
        };
        let usual = S3Limits::default();
        let requests_in_flight = self.requests_in_flight.unwrap_or(usual.requests_in_flight);
        if requests_in_flight.get() > MAX_IN_FLIGHT {
            return Err(format!("requests_in_flight must be 1 to {MAX_IN_FLIGHT}"));
        }
        let [shortest, longest] = REQUEST_TIMEOUT;
        if !(shortest..=longest).contains(&self.request_timeout) {
            return Err("request_timeout must be 1s to 10m".to_owned());
        }
        if self.retry_for > MAX_RETRY {
            return Err("retry_for must be at most 4m".to_owned());
        }
        Ok(S3 {
            location,
            endpoint: self.endpoint,
            region: self.region,
            addressing: if self.path_style { S3Addressing::Path } else { S3Addressing::VirtualHost },
            transport: if self.allow_http { S3Transport::PlainAllowed } else { S3Transport::TlsOnly },
            ca_file: self.ca_file,
            credentials,
            limits: S3Limits {
                requests_in_flight,
                requests_per_second: self.requests_per_second,
                bytes_per_second: self.bytes_per_second,
                request_timeout: self.request_timeout,
                retry_for: self.retry_for,
            },
            object_lock: if self.object_lock { S3ObjectLock::Required } else { S3ObjectLock::Unused },
        })
    }
}

fn yes() -> bool {
    true
}

fn request_timeout() -> Duration {
    S3Limits::default().request_timeout
}

fn retry_for() -> Duration {
    S3Limits::default().retry_for
}
