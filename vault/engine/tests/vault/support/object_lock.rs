//! A bucket with Object Lock, and what somebody who has its key can do past the engine.

use std::path::Path;
use std::process::Command;

use http::{HeaderMap, Method};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, ReqwestConnector};
use object_store::signer::{SignedUrlOptions, Signer as _};
use uuid::Uuid;

use holdfast_vault_engine::{S3, S3ObjectLock};

use super::s3::{Server, python_with_moto};

/// How a moto keeps locks: `tests/s3/moto` says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locks {
    Strict,
    NoBypass,
    Ignored,
    Moto,
}

/// A version of an object, or a mark that hides those before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) is_marker: bool,
}

#[derive(Debug)]
pub(crate) struct LockBucket {
    pub(crate) server: Server,
    pub(crate) name: String,
    client: HttpClient,
    signer: AmazonS3,
}

impl LockBucket {
    /// On the server that is given, or a strict moto; `None` without one: the test is skipped, in CI it fails.
    pub(crate) async fn start() -> Option<Self> {
        if std::env::var_os("HOLDFAST_TEST_S3_ENDPOINT").is_some() {
            return Some(Self::on(Server::start()?, &[("x-amz-bucket-object-lock-enabled", "true")]).await);
        }
        Self::of_moto(Locks::Strict).await
    }

    pub(crate) async fn of_moto(locks: Locks) -> Option<Self> {
        let python = python_with_moto()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/s3/moto");
        let locks = match locks {
            Locks::Strict => "strict",
            Locks::NoBypass => "no-bypass",
            Locks::Ignored => "ignored",
            Locks::Moto => "moto",
        };
        let mut command = Command::new(python);
        command.arg(script).arg(locks);
        let server = Server::of(command, &[]);
        Some(Self::on(server, &[("x-amz-bucket-object-lock-enabled", "true")]).await)
    }

    /// A new bucket, made with these headers.
    pub(crate) async fn on(server: Server, headers: &[(&'static str, &'static str)]) -> Self {
        let name = format!("holdfast-{}", Uuid::new_v4());
        let signer = AmazonS3Builder::new()
            .with_endpoint(&server.endpoint)
            .with_allow_http(true)
            .with_bucket_name(&name)
            .with_access_key_id(&server.access_key_id)
            .with_secret_access_key(&server.secret_access_key)
            .build()
            .unwrap();
        let client =
            ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let bucket = Self { server, name, client, signer };
        let (status, said) = bucket.request(Method::PUT, "", &[], headers, "").await;
        assert_eq!(status, 200, "{said}");
        bucket
    }

    /// A place of its own in the bucket, with locks that the server has to enforce.
    pub(crate) fn place(&self) -> S3 {
        let place = self.server.at(&format!("s3://{}/test-{}", self.name, Uuid::new_v4()));
        S3 { object_lock: S3ObjectLock::Required, ..place }
    }

    /// What the server answers to a request about an object, or about the bucket.
    pub(crate) async fn request(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, &'static str)],
        body: &str,
    ) -> (u16, String) {
        let (status, _, body) = self.exchange(method, key, query, headers, body).await;
        (status, body)
    }

    async fn exchange(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, &'static str)],
        body: &str,
    ) -> (u16, HeaderMap, String) {
        let mut options = SignedUrlOptions::new().with_query(query.iter().copied());
        for (name, value) in headers {
            options.signed_headers.insert(*name, value.parse().unwrap());
        }
        let hour = std::time::Duration::from_secs(3600);
        let url = self.signer.signed_url_opts(method.clone(), &key.into(), hour, &options).await.unwrap();
        let mut request = HttpRequest::new(body.to_owned().into());
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().unwrap();
        *request.headers_mut() = options.signed_headers;
        request.headers_mut().insert("content-length", body.len().into());
        let (parts, body) = self.client.execute(request).await.unwrap().into_parts();
        let body = String::from_utf8_lossy(&body.bytes().await.unwrap()).into_owned();
        (parts.status.as_u16(), parts.headers, body)
    }

    /// All versions below a prefix.
    pub(crate) async fn versions(&self, prefix: &str) -> Vec<Version> {
        let query = [("versions", ""), ("prefix", prefix)];
        let (status, listed) = self.request(Method::GET, "", &query, &[], "").await;
        assert_eq!(status, 200, "{listed}");
        assert!(listed.contains("<IsTruncated>false<"), "{listed}");
        let mut versions: Vec<Version> = [("<Version>", false), ("<DeleteMarker>", true)]
            .into_iter()
            .flat_map(|(tag, is_marker)| listed.split(tag).skip(1).map(move |entry| (entry, is_marker)))
            .map(|(entry, is_marker)| {
                let of = |tag: &str| {
                    let (_, rest) = entry.split_once(&format!("<{tag}>")).unwrap();
                    rest.split_once(&format!("</{tag}>")).unwrap().0.to_owned()
                };
                Version { key: of("Key"), id: of("VersionId"), is_marker }
            })
            .collect();
        versions.sort();
        versions
    }

    /// Deletes a version for good, or tries to.
    pub(crate) async fn delete_version(&self, version: &Version) -> u16 {
        self.request(Method::DELETE, &version.key, &[("versionId", &version.id)], &[], "").await.0
    }

    /// Mode and end of what retains an object's current version.
    pub(crate) async fn retention(&self, key: &str) -> Option<(String, String)> {
        let (status, headers, _) = self.exchange(Method::HEAD, key, &[], &[], "").await;
        assert_eq!(status, 200, "{key}");
        let header = |name| Some(headers.get(name)?.to_str().unwrap().to_owned());
        Some((header("x-amz-object-lock-mode")?, header("x-amz-object-lock-retain-until-date")?))
    }
}
