use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn at(url: &str) -> S3 {
    S3::at(url.parse().unwrap())
}

#[test]
fn locations_are_written_as_they_are_read() {
    for url in ["s3://b", "s3://my-bucket.example/holdfast", "s3://b/a/b_c/d.e"] {
        assert_eq!(url.parse::<S3Location>().unwrap().to_string(), url);
    }
    assert_eq!("s3://b/a/".parse::<S3Location>().unwrap().to_string(), "s3://b/a");
    for bad in [
        "/b",
        "S3://b",
        "s3://",
        "s3:///a",
        "s3://b/a//c",
        "s3://b/a/../c",
        "s3://b?x",
        "s3://u:p@b/x",
        "s3://b/a b",
    ] {
        assert!(bad.parse::<S3Location>().is_err(), "{bad}");
    }
}

#[test]
fn without_tls_is_only_done_on_demand() {
    let mut s3 = S3 { endpoint: Some("http://127.0.0.1:9".to_owned()), ..at("s3://b") };
    let refused = Storage::s3(&s3).unwrap_err();
    assert!(matches!(&refused, VaultError::PlainHttp { .. }), "{refused:?}");
    assert!(refused.next_step().unwrap().contains("allow_http"));
    s3.transport = S3Transport::PlainAllowed;
    Storage::s3(&s3).unwrap();
    for endpoint in ["127.0.0.1:9", "ftp://127.0.0.1"] {
        s3.endpoint = Some(endpoint.to_owned());
        assert!(matches!(Storage::s3(&s3), Err(VaultError::S3Settings { .. })), "{endpoint}");
    }
}

#[test]
fn a_bucket_is_in_the_path_or_in_the_hosts_name() {
    let mut s3 = at("s3://b/p");
    for (addressing, expected) in
        [(S3Addressing::Path, "https://s3.example:9"), (S3Addressing::VirtualHost, "https://b.s3.example:9")]
    {
        s3.addressing = addressing;
        let endpoint = s3.check_endpoint("https://s3.example:9".to_owned(), S3Transport::TlsOnly);
        assert_eq!(endpoint.unwrap(), expected);
    }
}

#[test]
fn credentials_that_others_can_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["id", "secret"] {
        fs::write(path(name), "words\n").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let credentials = S3Credentials::Files { access_key_id: path("id"), secret_access_key: path("secret") };
    let s3 = S3 { endpoint: Some("https://s3.example".to_owned()), credentials, ..at("s3://b") };
    Storage::s3(&s3).unwrap();
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Storage::s3(&s3), Err(VaultError::ExposedKeyFile { .. })));
    fs::remove_file(path("secret")).unwrap();
    assert!(matches!(Storage::s3(&s3), Err(VaultError::KeyFile { .. })));
}

#[test]
fn a_ca_file_has_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let s3 = S3 { ca_file: Some(path.clone()), ..at("s3://b") };
    for content in [None, Some(""), Some("words")] {
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let error = Storage::s3(&s3).unwrap_err();
        assert!(
            matches!(&error, VaultError::S3Settings { detail, .. } if detail.contains("ca.pem")),
            "{error:?}"
        );
    }
}
