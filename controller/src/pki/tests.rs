use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use x509_parser::extensions::GeneralName;

use holdfast_proto::ids::AgentId;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn new_ca() -> Ca {
    let dir = tempfile::tempdir().unwrap();
    Ca::load_or_create(&dir.path().join("pki")).unwrap().0
}

/// A key and the request that an honest agent makes for it.
pub(crate) fn agent_request() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    (key, request.der().to_vec())
}

/// The key that a request asks a certificate for.
pub(crate) fn requested(request: &[u8]) -> RequestedKey {
    RequestedKey::from_request(request).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_made_is_loaded_again_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    assert!(matches!(Ca::load(&pki), Err(PkiError::Missing { .. })));
    let (made, origin) = Ca::load_or_create(&pki).unwrap();
    assert_eq!(origin, CaOrigin::Created);
    assert_eq!((mode(&pki.join("ca.pem")), mode(&pki.join("ca.key"))), (0o644, 0o600));
    let (loaded, origin) = Ca::load_or_create(&pki).unwrap();
    assert_eq!(origin, CaOrigin::Loaded);
    assert_eq!(made.fingerprint(), loaded.fingerprint());
    assert_eq!(made.fingerprint().len(), 64);
    assert_eq!(made.certificate_pem(), fs::read_to_string(pki.join("ca.pem")).unwrap());
    assert_eq!(names(dir.path()), ["pki"]);
    assert!(!format!("{made:?}").contains("PRIVATE"));
}

#[test]
fn many_at_once_make_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let fingerprints: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Ca::load_or_create(&pki).unwrap().0.fingerprint())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(fingerprints.iter().all(|fingerprint| *fingerprint == fingerprints[0]));
    assert_eq!(names(dir.path()), ["pki"]);
}

#[test]
fn a_damaged_authority_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    Ca::load_or_create(&one).unwrap();
    Ca::load_or_create(&other).unwrap();

    fs::set_permissions(one.join("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Ca::load(&one), Err(PkiError::Exposed { mode: 0o640, .. })));
    fs::set_permissions(one.join("ca.key"), fs::Permissions::from_mode(0o600)).unwrap();

    fs::copy(other.join("ca.pem"), one.join("ca.pem")).unwrap();
    assert!(matches!(Ca::load_or_create(&one), Err(PkiError::Mismatch { .. })));

    fs::write(one.join("ca.pem"), "nothing").unwrap();
    assert!(matches!(Ca::load_or_create(&one), Err(PkiError::NoAuthority { .. })));

    for lone in ["ca.pem", "ca.key"] {
        let dir = dir.path().join(format!("lone-{lone}"));
        fs::create_dir(&dir).unwrap();
        fs::copy(other.join(lone), dir.join(lone)).unwrap();
        assert!(matches!(Ca::load_or_create(&dir), Err(PkiError::Read { .. })), "{lone}");
        assert_eq!(names(&dir), [lone]);
    }
}

#[test]
fn nothing_but_the_key_of_a_request_gets_into_the_certificate() {
    let ca = new_ca();
    let key = KeyPair::generate().unwrap();
    let mut hostile = CertificateParams::default();
    hostile.distinguished_name.push(DnType::CommonName, "holdfast-controller");
    hostile.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into().unwrap()),
        SanType::URI(format!("{AGENT_URI}{}", AgentId::generate()).try_into().unwrap()),
    ];
    hostile.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    hostile.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    hostile.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
    let request = hostile.serialize_request(&key).unwrap();

    let agent = AgentId::generate();
    let certificate = ca.sign_agent(&requested(request.der()), agent, DAY).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.chain_pem.as_bytes()).unwrap();
    let parsed = pem.parse_x509().unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let expected = format!("{AGENT_URI}{agent}");
    assert_eq!(names.value.general_names, [GeneralName::URI(&expected)]);
    assert_eq!(parsed.subject().to_string(), format!("CN=agent {agent}"));
    assert!(!parsed.is_ca());
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert_eq!(parsed.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
    assert_eq!(hex::encode(parsed.raw_serial()), certificate.serial);

    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    assert!((now - 310..=now - 300).contains(&begin), "{begin} {now}");
    assert!((now + 86_390..=now + 86_400).contains(&end), "{end} {now}");
    assert_eq!(certificate.not_after.timestamp(), end);
}

#[test]
fn a_request_must_be_whole_signed_and_of_an_accepted_kind() {
    let ca = new_ca();
    let agent = AgentId::generate();
    let refused = |request: &[u8]| RequestedKey::from_request(request).unwrap_err();
    let (_, request) = agent_request();

    let mut forged = request.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(refused(&forged), PkiError::RequestSignature));
    let longer = [request.as_slice(), b"x"].concat();
    for bad in [&b""[..], b"nothing", &request[..request.len() - 1], &longer] {
        assert!(matches!(refused(bad), PkiError::Request));
    }
    let odd = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let odd = CertificateParams::default().serialize_request(&odd).unwrap();
    assert!(matches!(refused(odd.der()), PkiError::RequestKey));
    for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(kind).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        ca.sign_agent(&requested(request.der()), agent, DAY).unwrap();
    }
}

#[test]
fn a_host_is_a_name_or_an_address() {
    for good in ["backup.example.com", "localhost", "10.0.0.1", "::1"] {
        check_host(good).unwrap();
    }
    for bad in ["", "a b", "https://a", "a:7443", "ü.example", "*.example.com"] {
        assert!(matches!(check_host(bad), Err(PkiError::Host { .. })), "{bad}");
    }
    let refused = ServerIdentity::new(new_ca(), &["a b".to_owned()]);
    assert!(matches!(refused, Err(PkiError::Host { host }) if host == "a b"));
}
