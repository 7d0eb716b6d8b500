use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// A scrape has so long for everything.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 8 << 10;
const SCRAPES_AT_ONCE: usize = 8;

/// Between two clean-ups of what the recorder gathers; also the pause after an error of `accept`.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ExporterError {
    #[error("cannot listen on {address} for metrics")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("cannot record metrics")]
    Record { source: BuildError },
}

/// Serves `GET /metrics` in the format of Prometheus, over plain HTTP. (The listener that comes with the recorder does
/// not tell which port it got, and waits for a silent client without an end.)
#[derive(Debug)]
pub(crate) struct Exporter {
    listener: TcpListener,
    address: SocketAddr,
    handle: PrometheusHandle,
}

impl Exporter {
    /// Binds the port and begins to record. Once per process.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, ExporterError> {
        let bind_error = |source| ExporterError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind_error)?;
        let bound = listener.local_addr().map_err(bind_error)?;
        let handle =
            PrometheusBuilder::new().install_recorder().map_err(|source| ExporterError::Record { source })?;
        super::describe_process();
        Ok(Self { listener, address: bound, handle })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let scrapes = Arc::new(Semaphore::new(SCRAPES_AT_ONCE));
        let mut upkeep = tokio::time::interval(UPKEEP);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = upkeep.tick() => {
                    self.handle.run_upkeep();
                    continue;
                }
                () = shutdown.cancelled() => return,
            };
            match (accepted, Arc::clone(&scrapes).try_acquire_owned()) {
                (Ok((stream, _)), Ok(permit)) => {
                    let handle = self.handle.clone();
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Ok(Err(error)) = tokio::time::timeout(TIMEOUT, answer(stream, &handle)).await {
                            debug!(error = &error as &dyn std::error::Error, "scrape failed");
                        }
                    });
                }
                (Ok(_), Err(_)) => debug!("scrape refused: too many at once"),
                (Err(error), _) => {
                    debug!(error = &error as &dyn std::error::Error, "cannot accept a scrape");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer(mut stream: TcpStream, handle: &PrometheusHandle) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (status, body) = match head.as_deref().map(request_line) {
        Some(Some(("GET" | "HEAD", "/metrics"))) => ("200 OK", handle.render()),
        Some(Some(("GET" | "HEAD", _))) => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        Some(Some(_)) => ("405 Method Not Allowed", "only GET is served\n".to_owned()),
        Some(None) | None => ("400 Bad Request", "this is no HTTP request\n".to_owned()),
    };
    let is_head = head.is_some_and(|head| head.starts_with(b"HEAD "));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if !is_head {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Reads up to the empty line; `None` if there is none within the limit.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if head.windows(4).any(|window| window == b"\r\n\r\n") {
            return Ok(Some(head));
        }
        if head.len() >= MAX_HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
}

/// Method and path of a request, without its query.
fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    version.starts_with("HTTP/1.").then(|| (method, target.split('?').next().unwrap_or(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn serves_metrics_and_refuses_the_rest() {
        let exporter = Exporter::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = exporter.address();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(Arc::new(exporter).run(shutdown.clone()));

        let metrics = ask(address, b"GET /metrics?x=1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("\nprocess_start_time_seconds "), "{metrics}");
        assert!(ask(address, b"GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, b"PUT /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(address, b"\x16\x03\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        let endless = vec![b'x'; MAX_HEAD_BYTES];
        assert!(ask(address, &endless).await.starts_with("HTTP/1.1 400 "));

        shutdown.cancel();
        running.await.unwrap();
    }
}
