use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Ca, PkiError};

/// Life of the listeners' certificate. Its key exists only in the memory of this process.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longest sleep between two looks at the clock: a sleep does not count the time in which the machine is suspended.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_secs(60);

/// The certificate of both listeners, replaced while they serve: a handshake uses the one of its moment.
pub(crate) struct ServerIdentity {
    ca: Ca,
    hosts: Vec<String>,
    lifetime: Duration,
    current: ArcSwap<Issued>,
}

struct Issued {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

impl ServerIdentity {
    /// Makes the first certificate, for `hosts` (DNS names and IP addresses) and this machine itself.
    pub(crate) fn new(ca: Ca, hosts: &[String]) -> Result<Arc<Self>, PkiError> {
        Self::with_lifetime(ca, hosts, LIFETIME)
    }

    pub(crate) fn with_lifetime(ca: Ca, hosts: &[String], lifetime: Duration) -> Result<Arc<Self>, PkiError> {
        let hosts = with_local(hosts);
        let current = ArcSwap::from_pointee(issue(&ca, &hosts, lifetime)?);
        Ok(Arc::new(Self { ca, hosts, lifetime, current }))
    }

    /// Renews the certificate at 70 % of its life, until `shutdown`.
    pub(crate) async fn keep_renewed(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let left = self.current.load().renew_at.duration_since(SystemTime::now()).unwrap_or_default();
            let pause = if left.is_zero() {
                match self.renew() {
                    Ok(()) => continue,
                    Err(error) => {
                        error!(
                            error = &error as &dyn std::error::Error,
                            "cannot renew the listeners' certificate"
                        );
                        RETRY
                    }
                }
            } else {
                left.min(LOOK_AT_CLOCK)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Replaces the certificate now.
    fn renew(&self) -> Result<(), PkiError> {
        self.current.store(Arc::new(issue(&self.ca, &self.hosts, self.lifetime)?));
        info!(hosts = ?self.hosts, "renewed the listeners' certificate");
        Ok(())
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

fn issue(ca: &Ca, hosts: &[String], lifetime: Duration) -> Result<Issued, PkiError> {
    let now = SystemTime::now();
    let (chain, key) = ca.server_certificate(hosts, now, lifetime)?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|source| PkiError::Tls { source })?;
    // A life of a second or less must not become a busy loop.
    let until_renewal = (lifetime / 10 * 7).max(Duration::from_millis(100));
    Ok(Issued { key: Arc::new(key), renew_at: now + until_renewal })
}

pub(super) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn with_local(hosts: &[String]) -> Vec<String> {
    let mut all = hosts.to_vec();
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    let local = std::iter::once("localhost".to_owned()).chain(loopback.map(|address| address.to_string()));
    for host in local {
        if !all.contains(&host) {
            all.push(host);
        }
    }
    all
}
