//! A bucket and the versions in it, as whoever has its key sees them: past the engine, by requests of their own. Also of the system's tests.

use std::time::Duration;

use http::{HeaderMap, Method};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, ReqwestConnector};
use object_store::signer::{SignedUrlOptions, Signer as _};

const VALID: Duration = Duration::from_secs(3600);

/// What makes a bucket one with Object Lock.
pub(crate) const OBJECT_LOCK: (&str, &str) = ("x-amz-bucket-object-lock-enabled", "true");

/// A version of an object, or a marker that hides those before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) is_marker: bool,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    client: HttpClient,
    signer: AmazonS3,
}

impl Bucket {
    pub(crate) fn new(endpoint: &str, name: &str, access_key_id: &str, secret_access_key: &str) -> Self {
        let signer = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_allow_http(true)
            .with_bucket_name(name)
            .with_access_key_id(access_key_id)
            .with_secret_access_key(secret_access_key)
            .build()
            .unwrap();
        let client =
            ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        Self { client, signer }
    }

    pub(crate) async fn make(&self, headers: &[(&'static str, &'static str)]) {
        let (status, said) = self.request(Method::PUT, "", &[], headers, "").await;
        assert_eq!(status, 200, "{said}");
    }

    /// Whether the server lets a name be taken twice, as Ceph 16.2 does once it keeps versions: then there can be no vault here.
    pub(crate) async fn takes_names_twice(&self) -> bool {
        let put = || self.request(Method::PUT, "twice", &[], &[("if-none-match", "*")], "x");
        let (first, second) = (put().await, put().await);
        assert_eq!(first.0, 200, "{first:?}");
        second.0 == 200
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

    /// The same, with the headers of the answer.
    pub(crate) async fn exchange(
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
        let url = self.signer.signed_url_opts(method.clone(), &key.into(), VALID, &options).await.unwrap();
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

    /// Deletes an object as everybody does: a marker hides it.
    pub(crate) async fn hide(&self, key: &str) {
        let (status, said) = self.request(Method::DELETE, key, &[], &[], "").await;
        assert_eq!(status, 204, "{key}: {said}");
    }

    /// What an operator does when objects were hidden.
    pub(crate) async fn remove_markers(&self, prefix: &str) {
        for version in self.versions(prefix).await.iter().filter(|version| version.is_marker) {
            assert_eq!(self.delete_version(version).await, 204, "{version:?}");
        }
    }

    /// Deletes a version for good, or tries to.
    pub(crate) async fn delete_version(&self, version: &Version) -> u16 {
        self.request(Method::DELETE, &version.key, &[("versionId", &version.id)], &[], "").await.0
    }
}
