use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};

use super::server::provider;
use super::{Ca, PkiError, ServerIdentity};

/// TLS of the agents' listener: a client certificate must be one of `ca` and valid now; having none is left to the
/// identity layer, because an agent that enrols has none.
pub(crate) fn agents_tls(ca: &Ca, identity: Arc<ServerIdentity>) -> Result<ServerConfig, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).map_err(|source| PkiError::Tls { source })?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
        .allow_unauthenticated()
        .build()
        .map_err(|source| PkiError::ClientVerifier { source })?;
    let config = modern()?.with_client_cert_verifier(verifier).with_cert_resolver(identity);
    Ok(for_grpc(config))
}

/// TLS of the operators' listener, who show an API key and no certificate.
pub(crate) fn operators_tls(identity: Arc<ServerIdentity>) -> Result<ServerConfig, PkiError> {
    Ok(for_grpc(modern()?.with_no_client_auth().with_cert_resolver(identity)))
}

fn modern() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, PkiError> {
    ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| PkiError::Tls { source })
}

fn for_grpc(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session is not verified again: it would outlive the certificate that it was opened with.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}
