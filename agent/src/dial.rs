//! Connections to controller and gateways: HTTP/2 over TLS, with keepalive and timeouts on all of them.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
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
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| DialError::Connect { address: address.clone(), source: Box::new(source) })
}

async fn handshake(address: &Address, tls: Arc<rustls::ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(address.host.clone())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(tls).connect(name, tcp).await
}
