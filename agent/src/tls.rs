//! TLS towards controller and gateways: who is trusted, and which certificate is shown.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};

use crate::identity::Identity;

/// What is said of a controller that is not the one of the fingerprint.
pub(crate) const OTHER_FINGERPRINT: &str = "the controller's CA has another fingerprint";

/// The TLS configuration in force. Connections that are made after [`ClientTls::rotate`] show the new certificate.
#[derive(Debug)]
pub(crate) struct ClientTls {
    current: ArcSwap<ClientConfig>,
    certificate: Arc<CurrentCertificate>,
}

/// Why no TLS configuration can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read the PEM of {what}: {reason}")]
    Pem { what: &'static str, reason: String },
    #[error("the PEM of {what} is empty")]
    Empty { what: &'static str },
    #[error("TLS cannot use the agent's key and certificates")]
    Rustls(#[from] rustls::Error),
}

/// How the controller is recognised before there is an identity.
#[derive(Debug, Clone)]
pub(crate) enum FirstTrust {
    /// Its certificate chains to one of these, PEM.
    CaPem(String),
    /// SHA-256 of the DER of a CA certificate that it sends along.
    Fingerprint([u8; 32]),
}

#[derive(Debug)]
struct CurrentCertificate(ArcSwap<CertifiedKey>);

impl ResolvesClientCert for CurrentCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ClientTls {
    /// # Errors
    /// If the identity's PEM texts are not what they should be.
    pub(crate) fn new(identity: &Identity) -> Result<Self, TlsError> {
        let certificate = Arc::new(CurrentCertificate(ArcSwap::new(certified_key(identity)?)));
        let config = config(identity, &certificate)?;
        Ok(Self { current: ArcSwap::new(config), certificate })
    }

    /// Shows this identity's certificate, and trusts its CA, from now on.
    ///
    /// # Errors
    /// As [`ClientTls::new`]; the old identity stays in force then.
    pub(crate) fn rotate(&self, identity: &Identity) -> Result<(), TlsError> {
        let key = certified_key(identity)?;
        let config = config(identity, &self.certificate)?;
        self.certificate.0.store(key);
        self.current.store(config);
        Ok(())
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.current.load_full()
    }
}

/// A configuration without a client certificate, for enrolment.
///
/// # Errors
/// If the CA's PEM cannot be read.
pub(crate) fn first_contact(trust: &FirstTrust) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut config = match trust {
        FirstTrust::CaPem(pem) => builder.with_root_certificates(roots(pem)?).with_no_client_auth(),
        FirstTrust::Fingerprint(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(FingerprintVerifier {
                fingerprint: *fingerprint,
                provider: Arc::new(provider::default_provider()),
            }))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// SHA-256 of every certificate of a PEM text.
///
/// # Errors
/// If it cannot be read or has none.
pub(crate) fn fingerprints(pem: &str) -> Result<Vec<[u8; 32]>, TlsError> {
    Ok(certificates(pem, "the CA")?.iter().map(|certificate| sha256(certificate)).collect())
}

fn config(identity: &Identity, certificate: &Arc<CurrentCertificate>) -> Result<Arc<ClientConfig>, TlsError> {
    let resolver: Arc<dyn ResolvesClientCert> = Arc::<CurrentCertificate>::clone(certificate);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&identity.ca_pem)?)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would be known to the server under the certificate of the first handshake, expired or not.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn certified_key(identity: &Identity) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(&identity.chain_pem, "the agent's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|error| TlsError::Pem { what: "the agent's key", reason: error.to_string() })?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider::default_provider())?))
}

fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "the CA")? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { what, reason: error.to_string() })?;
    if certificates.is_empty() { Err(TlsError::Empty { what }) } else { Ok(certificates) }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Trusts exactly the CA with the fingerprint, if the server sends it along, and everything else as usual.
#[derive(Debug)]
struct FingerprintVerifier {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| sha256(certificate) == self.fingerprint)
            .ok_or_else(|| rustls::Error::General(OTHER_FINGERPRINT.to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
