use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use holdfast_proto::ids::AgentId;

use super::publish::{NewFile, Published, publish};
use super::{AGENT_URI, PkiError, validity};

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// Agents pin this certificate, so it outlives every machine that runs the controller.
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// The certificate authority. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ca(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

/// What an agent gets.
#[derive(Clone, Debug)]
pub(crate) struct AgentCertificate {
    /// Leaf first.
    pub(crate) chain_pem: String,
    /// 32 lower-case hex digits, as the identity of a request carries them.
    pub(crate) serial: String,
    pub(crate) not_after: DateTime<Utc>,
}

/// The public key of a certificate request. Whatever else the request asks for (subject, names, usages, validity) is not even
/// looked at.
#[derive(Debug)]
pub(crate) struct RequestedKey(SubjectPublicKeyInfo);

impl RequestedKey {
    /// Takes it out of the request.
    ///
    /// # Errors
    /// A request that cannot be read, is not signed by its own key, or has a key of another kind.
    pub(crate) fn from_request(csr_der: &[u8]) -> Result<Self, PkiError> {
        let (rest, request) = X509CertificationRequest::from_der(csr_der).map_err(|_| PkiError::Request)?;
        if !rest.is_empty() {
            return Err(PkiError::Request);
        }
        let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
            .map_err(|_| PkiError::RequestKey)?;
        let accepted: [&rcgen::SignatureAlgorithm; 3] =
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !accepted.contains(&key.algorithm()) {
            return Err(PkiError::RequestKey);
        }
        request.verify_signature().map_err(|_| PkiError::RequestSignature)?;
        Ok(Self(key))
    }

    /// SHA-256 of the key, which is the same in each request for it.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        super::sha256(&self.0.subject_public_key_info())
    }
}

impl Ca {
    /// Loads the authority of `dir`, or makes one if there is none. Several processes may do this at once: one makes it,
    /// the others load that.
    pub(crate) fn load_or_create(dir: &Path) -> Result<(Self, CaOrigin), PkiError> {
        match Self::load(dir) {
            Err(PkiError::Missing { .. }) => {}
            loaded => return loaded.map(|ca| (ca, CaOrigin::Loaded)),
        }
        let key = KeyPair::generate().map_err(|source| PkiError::Issue { what: "the authority", source })?;
        let params = authority_params()?;
        let certificate =
            params.self_signed(&key).map_err(|source| PkiError::Issue { what: "the authority", source })?;
        let published = publish(
            dir,
            &[
                NewFile { name: KEY_FILE, mode: 0o600, content: &key.serialize_pem() },
                NewFile { name: CERTIFICATE_FILE, mode: 0o644, content: &certificate.pem() },
            ],
        )?;
        let origin = match published {
            Published::Created => CaOrigin::Created,
            Published::AlreadyThere => CaOrigin::Loaded,
        };
        Ok((Self::load(dir)?, origin))
    }

    /// Loads the authority of `dir`.
    ///
    /// # Errors
    /// [`PkiError::Missing`] if neither file is there; a lone one is an error of its own, never replaced.
    pub(crate) fn load(dir: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        let missing = |path: &Path| path.try_exists().map(|there| !there);
        let read_error = |source: io::Error| PkiError::Read { path: dir.to_owned(), source };
        if missing(&certificate_path).map_err(read_error)? && missing(&key_path).map_err(read_error)? {
            return Err(PkiError::Missing { dir: dir.to_owned() });
        }
        let key_pem = read_secret(&key_path)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|source| PkiError::Key { path: key_path, source })?;
        let certificate_pem = read(&certificate_path)?;
        let no_authority = || PkiError::NoAuthority { path: certificate_path.clone() };
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| no_authority())?
            .into_owned();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| no_authority())?;
        if !parsed.is_ca() {
            return Err(no_authority());
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(PkiError::Mismatch { dir: dir.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| no_authority())?;
        Ok(Self(Arc::new(Inner { issuer, certificate, certificate_pem })))
    }

    pub(crate) fn certificate_pem(&self) -> &str {
        &self.0.certificate_pem
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// SHA-256 of the certificate, 64 lower-case hex digits.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(super::sha256(&self.0.certificate))
    }

    /// Certifies a public key for this agent.
    ///
    /// # Errors
    /// If the certificate cannot be made.
    pub(crate) fn sign_agent(
        &self,
        key: &RequestedKey,
        agent: AgentId,
        lifetime: Duration,
    ) -> Result<AgentCertificate, PkiError> {
        let what = "an agent";
        let uri = format!("{AGENT_URI}{agent}");
        let uri = uri.try_into().map_err(|source| PkiError::Issue { what, source })?;
        let (not_before, not_after) = validity(SystemTime::now(), lifetime);
        let serial = new_serial();
        let mut params = leaf_params(&format!("agent {agent}"), ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_validity(&mut params, not_before, not_after);
        let certificate =
            params.signed_by(&key.0, &self.0.issuer).map_err(|source| PkiError::Issue { what, source })?;
        let end = i64::try_from(not_after).ok().and_then(|end| DateTime::from_timestamp(end, 0));
        Ok(AgentCertificate {
            chain_pem: certificate.pem(),
            serial: hex::encode(serial),
            not_after: end.unwrap_or(DateTime::<Utc>::MAX_UTC),
        })
    }

    /// Makes a key and a certificate for a listener that is reached by these names and addresses. The chain ends with
    /// the authority itself, so that a client which only knows its fingerprint can check it.
    pub(super) fn server_certificate(
        &self,
        hosts: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let what = "a listener";
        let key = KeyPair::generate().map_err(|source| PkiError::Issue { what, source })?;
        let mut params = leaf_params("holdfast-controller", ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names = hosts.iter().map(|host| host_name(host)).collect::<Result<_, _>>()?;
        params.serial_number = Some(SerialNumber::from_slice(&new_serial()));
        let (not_before, not_after) = validity(now, lifetime);
        set_validity(&mut params, not_before, not_after);
        let certificate =
            params.signed_by(&key, &self.0.issuer).map_err(|source| PkiError::Issue { what, source })?;
        let chain = vec![certificate.der().clone(), self.0.certificate.clone()];
        Ok((chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// Whether the authority was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaOrigin {
    Created,
    Loaded,
}

/// Refuses a host that cannot stand in a certificate.
pub(crate) fn check_host(host: &str) -> Result<(), PkiError> {
    host_name(host).map(|_| ())
}

fn host_name(host: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = host.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let refused = || PkiError::Host { host: host.to_owned() };
    // A name that rustls cannot parse is one that no client can connect to.
    rustls_pki_types::DnsName::try_from(host).map_err(|_| refused())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| refused())?))
}

fn authority_params() -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("Holdfast CA {}", hex::encode(rand::random::<[u8; 4]>())));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&new_serial()));
    let (not_before, not_after) = validity(SystemTime::now(), CA_LIFETIME);
    set_validity(&mut params, not_before, not_after);
    Ok(params)
}

fn leaf_params(common_name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}

/// 16 bytes, most of them random, whose DER form is the bytes themselves: positive and without a leading zero.
fn new_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.to_owned(), source })
}

/// Refuses a file to which others than its owner have any right.
fn read_secret(path: &Path) -> Result<String, PkiError> {
    let failed = |source| PkiError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PkiError::Exposed { path: path.to_owned(), mode });
    }
    io::read_to_string(file).map_err(failed)
}
