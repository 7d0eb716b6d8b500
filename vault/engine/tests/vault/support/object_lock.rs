//! Vaults in a bucket with Object Lock.

use std::path::Path;
use std::process::Command;

use http::Method;
use uuid::Uuid;

use holdfast_vault_engine::{S3, S3ObjectLock};

use super::bucket::{Bucket, OBJECT_LOCK};
use super::s3::{Server, python_with_moto};

/// How a moto keeps locks: `tests/s3/moto` says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locks {
    Strict,
    NoBypass,
    Ignored,
    Moto,
}

#[derive(Debug)]
pub(crate) struct LockBucket {
    pub(crate) bucket: Bucket,
    server: Server,
    name: String,
}

impl LockBucket {
    /// On the server that is given, or a strict moto; `None` without one: the test is skipped, in CI it fails.
    pub(crate) async fn start() -> Option<Self> {
        if std::env::var_os("HOLDFAST_TEST_S3_ENDPOINT").is_some() {
            let server = Self::on(Server::start()?, &[OBJECT_LOCK]).await;
            if !server.bucket.takes_names_twice().await {
                return Some(server);
            }
            eprintln!("with versions this server lets a name be taken twice: taking moto");
        }
        Self::of_moto(Locks::Strict).await
    }

    pub(crate) async fn of_moto(locks: Locks) -> Option<Self> {
        let mut command = Command::new(python_with_moto()?);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/s3/moto")).arg(match locks {
            Locks::Strict => "strict",
            Locks::NoBypass => "no-bypass",
            Locks::Ignored => "ignored",
            Locks::Moto => "moto",
        });
        Some(Self::on(Server::of(command, &[]), &[OBJECT_LOCK]).await)
    }

    /// A new bucket, made with these headers.
    pub(crate) async fn on(server: Server, headers: &[(&'static str, &'static str)]) -> Self {
        let name = format!("holdfast-{}", Uuid::new_v4());
        let bucket = Bucket::new(&server.endpoint, &name, &server.access_key_id, &server.secret_access_key);
        bucket.make(headers).await;
        Self { bucket, server, name }
    }

    /// A place of its own in the bucket, with locks that the server has to enforce.
    pub(crate) fn place(&self) -> S3 {
        let place = self.server.at(&format!("s3://{}/test-{}", self.name, Uuid::new_v4()));
        S3 { object_lock: S3ObjectLock::Required, ..place }
    }

    /// Mode and end of what retains an object's current version.
    pub(crate) async fn retention(&self, key: &str) -> Option<(String, String)> {
        let (status, headers, _) = self.bucket.exchange(Method::HEAD, key, &[], &[], "").await;
        assert_eq!(status, 200, "{key}");
        let header = |name| Some(headers.get(name)?.to_str().unwrap().to_owned());
        Some((header("x-amz-object-lock-mode")?, header("x-amz-object-lock-retain-until-date")?))
    }
}
