use std::path::Path;

use holdfast_vault_engine::{S3, S3Addressing, S3Credentials, S3Transport, Storage, VaultError};

use crate::args::S3Options;

/// Opens the storage that `place` names: a directory, or a bucket as the options say.
pub(crate) fn storage(place: &str, options: S3Options) -> Result<Storage, VaultError> {
    if !place.starts_with("s3://") {
        return Storage::directory(Path::new(place));
    }
    let mut s3 = S3::at(place.parse()?);
    s3.endpoint = options.s3_endpoint;
    s3.region = options.s3_region;
    s3.ca_file = options.s3_ca_file;
    if options.s3_virtual_host {
        s3.addressing = S3Addressing::VirtualHost;
    }
    if options.s3_allow_http {
        s3.transport = S3Transport::PlainAllowed;
    }
    if let (Some(access_key_id), Some(secret_access_key)) =
        (options.s3_access_key_id_file, options.s3_secret_access_key_file)
    {
        s3.credentials = S3Credentials::Files { access_key_id, secret_access_key };
    }
    Storage::s3(&s3)
}
