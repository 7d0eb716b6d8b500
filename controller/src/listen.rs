//! From a port to connections that have done their TLS handshake. A peer that is slow, silent or wrong costs its own
//! connection and nothing else.

mod connection;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use connection::Connection;

/// Thousands of agents come back at once when a controller was away.
const BACKLOG: u32 = 4096;
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// Pause after an error of `accept` that does not go away by itself, such as no free descriptor.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How much a listener takes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections open at once; a further one is closed at once.
    pub(crate) connections: usize,
    /// Handshakes at once; further connections wait in the backlog.
    pub(crate) handshakes: usize,
    pub(crate) handshake_timeout: Duration,
    /// How long a connection without a client certificate may live; `None`: as long as it wants.
    pub(crate) stranger_lifetime: Option<Duration>,
}

/// A bound port.
#[derive(Debug)]
pub(crate) struct Listener {
    name: &'static str,
    tcp: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Listener {
    /// Binds the port; 0 takes a free one. `name` is for logs and metrics.
    pub(crate) fn bind(name: &'static str, address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // After a restart the port may still have connections that time out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let tcp = socket.listen(BACKLOG)?;
        let address = tcp.local_addr()?;
        Ok(Self { name, tcp, address, limits })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `shutdown` or until the stream is dropped; then the port is closed.
    pub(crate) fn accept(
        self,
        tls: ServerConfig,
        shutdown: CancellationToken,
    ) -> impl Stream<Item = Result<Connection, Infallible>> + Send + 'static {
        let (ready, connections) = mpsc::channel(64);
        tokio::spawn(async move {
            tokio::select! {
                () = accept_all(self, Arc::new(tls), ready.clone()) => {}
                () = shutdown.cancelled() => {}
                () = ready.closed() => {}
            }
        });
        ReceiverStream::new(connections)
    }
}

async fn accept_all(
    listener: Listener,
    tls: Arc<ServerConfig>,
    ready: mpsc::Sender<Result<Connection, Infallible>>,
) {
    let Listener { name, tcp, limits, .. } = listener;
    let acceptor = TlsAcceptor::from(tls);
    let connections = Arc::new(Semaphore::new(limits.connections));
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let mut pause = FIRST_PAUSE;
    loop {
        let Ok(handshake_permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let stream = match tcp.accept().await {
            Ok((stream, _)) => {
                pause = FIRST_PAUSE;
                stream
            }
            Err(error) if is_peers_fault(&error) => continue,
            Err(error) => {
                warn!(
                    listener = name,
                    error = &error as &dyn std::error::Error,
                    "cannot accept a connection"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            metrics::counter!("holdfast_connections_refused_total", "listener" => name).increment(1);
            debug!(listener = name, limit = limits.connections, "connection refused: too many are open");
            continue;
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let connection = handshake(name, &acceptor, stream, permit, limits).await;
            drop(handshake_permit);
            if let Some(connection) = connection {
                // Nobody receives any more: the listener is closing.
                let _ = ready.send(Ok(connection)).await;
            }
        });
    }
}

async fn handshake(
    name: &'static str,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    limits: Limits,
) -> Option<Connection> {
    let peer = stream.peer_addr().ok();
    if let Err(error) = tune(&stream) {
        debug!(
            listener = name,
            ?peer,
            error = &error as &dyn std::error::Error,
            "connection lost before its handshake"
        );
        return None;
    }
    let reason = match tokio::time::timeout(limits.handshake_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(Connection::new(name, stream, permit, limits.stranger_lifetime)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    metrics::counter!("holdfast_handshakes_failed_total", "listener" => name).increment(1);
    debug!(listener = name, ?peer, reason, "handshake failed");
    None
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    Ok(())
}

/// Errors of the one connection that was about to be accepted.
fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
