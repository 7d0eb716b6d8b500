//! Connections to controller and gateways: HTTP/2 over TLS, with keepalive and timeouts on all of them.

use std::error::Error;
use std::io;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls_pki_types::{ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::address::Address;
use crate::config::Timing;
use crate::tls::ClientTls;

/// HTTP/2 windows of connections that carry data, in bytes per stream; the connection's is four times that.
const DATA_WINDOW_BYTES: u32 = 4 << 20;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Control,
    Data,
}

/// Makes connections with whatever identity is current.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    tls: Arc<ClientTls>,
    timing: Timing,
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{address} is not usable as an address")]
    Address { address: Address, source: Box<tonic::transport::Error> },
    #[error("cannot connect to {address}")]
    Connect { address: Address, source: Box<tonic::transport::Error> },
    #[error(
        "cannot connect to {address}: its certificate {validity}, but the clock of this machine says {now}"
    )]
    Clock { address: Address, validity: String, now: String },
}

/// What to do when two clocks differ, whichever of them is wrong.
pub(crate) const COMPARE_CLOCKS: &str = "most likely the clock of this machine or the controller's is wrong: compare `date -u` on both, and set the wrong one";

impl DialError {
    fn of(address: &Address, error: tonic::transport::Error) -> Self {
        let address = address.clone();
        match rustls_error(&error) {
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
                time,
                not_before,
            })) => {
                let validity = format!("is valid from {} on", date(*not_before));
                Self::Clock { address, validity, now: date(*time) }
            }
            // A running controller renews it long before.
            Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
                let validity = format!("was valid until {}", date(*not_after));
                Self::Clock { address, validity, now: date(*time) }
            }
            _ => Self::Connect { address, source: Box::new(error) },
        }
    }

    /// What a person can do, if it is known.
    pub(crate) fn action(&self) -> Option<&'static str> {
        match self {
            Self::Clock { .. } => Some(COMPARE_CLOCKS),
            Self::Address { .. } | Self::Connect { .. } => None,
        }
    }
}

/// What TLS says, however deep it lies: an `io::Error` does not name what it wraps as its source.
fn rustls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = wrapped.and_then(|wrapped| wrapped.downcast_ref());
        if let Some(found) = error.downcast_ref().or(found) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether the other side found our certificate to be of another time: for both ends of its life there is one alert. By the
/// text, which is all that HTTP/2 keeps of it.
pub(crate) fn is_certificate_of_another_time(error: &dyn Error) -> bool {
    crate::error::chain(error).contains("received fatal alert: CertificateExpired")
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    DateTime::from_timestamp(seconds, 0).map_or_else(
        || format!("{seconds} s since 1970"),
        |time| time.to_rfc3339_opts(SecondsFormat::Secs, true),
    )
}

impl Dialer {
    pub(crate) fn new(tls: Arc<ClientTls>, timing: Timing) -> Self {
        Self { tls, timing }
    }

    /// Connects. The channel connects again by itself only while it is used; callers drop it on errors.
    ///
    /// # Errors
    /// If TCP, TLS or HTTP/2 fails or takes longer than `connect_timeout`.
    pub(crate) async fn connect(&self, address: &Address, purpose: Purpose) -> Result<Channel, DialError> {
        let tls = Arc::clone(&self.tls);
        connect(address, purpose, &self.timing, move || tls.config()).await
    }
}

/// Connects with a TLS configuration that is asked for at each handshake.
///
/// # Errors
/// As [`Dialer::connect`].
pub(crate) async fn connect(
    address: &Address,
    purpose: Purpose,
    timing: &Timing,
    tls: impl Fn() -> Arc<rustls::ClientConfig> + Send + 'static,
) -> Result<Channel, DialError> {
    let unusable = |source| DialError::Address { address: address.clone(), source: Box::new(source) };
    let origin: Uri = Endpoint::from_shared(format!("https://{address}")).map_err(unusable)?.uri().clone();
    // The scheme `http` only keeps tonic from doing TLS of its own: it fixes the identity for good.
    let mut endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(unusable)?
        .origin(origin)
        .connect_timeout(timing.connect_timeout)
        .http2_keep_alive_interval(timing.keepalive_interval)
        .keep_alive_timeout(timing.keepalive_timeout)
        .keep_alive_while_idle(true);
    if purpose == Purpose::Data {
        endpoint = endpoint
            .initial_stream_window_size(DATA_WINDOW_BYTES)
            .initial_connection_window_size(4 * DATA_WINDOW_BYTES);
    }
    let target = address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (target, tls) = (target.clone(), tls());
        async move { handshake(&target, tls).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| DialError::of(address, error))
}

async fn handshake(address: &Address, tls: Arc<rustls::ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(address.host.clone())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(tls).connect(name, tcp).await
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::testing::pki::TestCa;
    use crate::tls::{FirstTrust, first_contact};

    /// Connects to a server whose certificate begins and ends so many seconds from now.
    async fn connect_to(from: i64, until: i64) -> DialError {
        let at = |seconds: i64| {
            let distance = Duration::from_secs(seconds.unsigned_abs());
            let now = SystemTime::now();
            if seconds < 0 { now - distance } else { now + distance }
        };
        let ca = TestCa::new();
        let acceptor = TlsAcceptor::from(Arc::new(ca.server_config(at(from), at(until))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address =
            format!("localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream).await.err()
        });
        let tls = first_contact(&FirstTrust::CaPem(ca.pem.clone())).unwrap();
        let error = connect(&address, Purpose::Control, &Timing::default(), move || Arc::clone(&tls))
            .await
            .unwrap_err();
        assert!(server.await.unwrap().is_some(), "the handshake failed on both sides");
        error
    }

    #[tokio::test]
    async fn a_certificate_of_another_time_is_told_as_a_matter_of_clocks() {
        let hour = 3600;
        for (from, until, word) in
            [(hour, 2 * hour, "is valid from 2"), (-2 * hour, -hour, "was valid until 2")]
        {
            let error = connect_to(from, until).await;
            let text = crate::error::chain(&error);
            assert!(text.contains(word) && text.contains("the clock of this machine says 2"), "{text}");
            assert!(!text.contains("UNIX"), "{text}");
            assert_eq!(error.action(), Some(COMPARE_CLOCKS));
        }
    }
}
