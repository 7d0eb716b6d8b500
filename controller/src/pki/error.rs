use std::io;
use std::path::PathBuf;

/// What went wrong with certificates. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("there is no certificate authority in {}", dir.display())]
    Missing { dir: PathBuf },
    #[error("{} can be read by other users (mode {mode:03o})", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is no private key that this version can use", path.display())]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("{} holds no certificate of a certificate authority", path.display())]
    NoAuthority { path: PathBuf },
    #[error("ca.pem and ca.key in {} do not belong together", dir.display())]
    Mismatch { dir: PathBuf },
    #[error("cannot make a certificate for {what}")]
    Issue { what: &'static str, source: rcgen::Error },
    #[error("{host:?} is neither a DNS name nor an IP address")]
    Host { host: String },
    #[error("the certificate request cannot be read")]
    Request,
    #[error("the certificate request is not signed by its own key")]
    RequestSignature,
    #[error(
        "the certificate request has a key of a kind that is not accepted; use ECDSA P-256, P-384 or Ed25519"
    )]
    RequestKey,
    #[error("cannot set up TLS")]
    Tls { source: rustls::Error },
    #[error("cannot set up the check of agents' certificates")]
    ClientVerifier { source: rustls::server::VerifierBuilderError },
}

impl PkiError {
    /// What the operator is to do, where there is something to be done.
    pub(crate) fn next_step(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some(
                "run `holdfast-controller init` with the same --data-dir, or copy the folder `pki` here"
                    .to_owned(),
            ),
            Self::Exposed { path, .. } => Some(format!("run `chmod 600 {}`", path.display())),
            Self::Key { .. } | Self::NoAuthority { .. } | Self::Mismatch { .. } => Some(
                "put the folder `pki` back as `init` made it, from a copy or from another controller"
                    .to_owned(),
            ),
            Self::Host { .. } => {
                Some("give --host a name such as backup.example.com, or an IP address".to_owned())
            }
            _ => None,
        }
    }
}
