use std::path::PathBuf;

use object_store::aws::AmazonS3Builder;

use crate::VaultError;
use crate::key_file::read_private;

/// By what right a bucket is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Credentials {
    /// What Amazon's tools read: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, a role of the container or of the instance.
    Environment,
    /// Files that nobody but their owner can read. They are read once.
    Files { access_key_id: PathBuf, secret_access_key: PathBuf },
}

impl S3Credentials {
    /// A client with these and, if they are the environment's, with what else that says. Files are not mixed with a session's
    /// token from somewhere else.
    pub(super) fn begin(&self, environment: AmazonS3Builder) -> Result<AmazonS3Builder, VaultError> {
        match self {
            Self::Environment => Ok(environment),
            Self::Files { access_key_id, secret_access_key } => Ok(AmazonS3Builder::new()
                .with_access_key_id(read_private(access_key_id)?.trim())
                .with_secret_access_key(read_private(secret_access_key)?.trim())),
        }
    }
}
