//! Stands between gateway and server: sees each request, holds answers up, cuts them off, answers in the server's place.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::s3::Server;

/// Answers that are shorter are not cut off.
const LONG: usize = 64 << 10;

/// Its requests have a connection each.
#[derive(Debug, Default)]
pub(crate) struct Proxy {
    /// How long an answer is held up before its first byte goes on.
    hold: Duration,
    /// So many long answers more are cut off in the middle.
    to_cut: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    begun: Mutex<Vec<Instant>>,
    refusal: Mutex<Refusal>,
}

/// What is answered without asking the server.
#[derive(Debug, Default)]
struct Refusal {
    times: usize,
    status: u16,
    method: &'static str,
    object: &'static str,
}

impl Proxy {
    /// In front of the server, which is reached through it from then on.
    pub(crate) async fn before(server: &mut Server, hold: Duration) -> Arc<Self> {
        let upstream: SocketAddr = server.endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        server.endpoint = format!("http://{}", listener.local_addr().unwrap());
        let proxy = Arc::new(Self { hold, ..Self::default() });
        let seen = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                // One that ends early is what is tried.
                tokio::spawn(async move { drop(seen.pass_on(client, upstream).await) });
            }
        });
        proxy
    }

    pub(crate) fn cut(&self, long_answers: usize) {
        self.to_cut.store(long_answers, Ordering::SeqCst);
    }

    pub(crate) fn left_to_cut(&self) -> usize {
        self.to_cut.load(Ordering::SeqCst)
    }

    /// To so many requests more it answers with this status: to those with this method, of objects with this in their names. `""`: any.
    pub(crate) fn refuse(&self, times: usize, status: u16, method: &'static str, object: &'static str) {
        *self.refusal.lock().unwrap() = Refusal { times, status, method, object };
    }

    pub(crate) fn left_to_refuse(&self) -> usize {
        self.refusal.lock().unwrap().times
    }

    fn refused(&self, head: &[u8]) -> Option<u16> {
        let head = String::from_utf8_lossy(head);
        let line = head.lines().next()?;
        let mut refusal = self.refusal.lock().unwrap();
        if !line.starts_with(refusal.method) || !line.contains(refusal.object) {
            return None;
        }
        refusal.times = refusal.times.checked_sub(1)?;
        Some(refusal.status)
    }

    /// The most requests of which no answer had begun.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.most_in_flight.load(Ordering::SeqCst)
    }

    /// When each request began, since the last time.
    pub(crate) fn begun(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.begun.lock().unwrap())
    }

    async fn pass_on(&self, client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
        let (mut from_client, mut to_client) = client.into_split();
        let (head, rest) = read_head(&mut from_client).await?;
        let is_read = head.starts_with(b"GET ");
        self.begun.lock().unwrap().push(Instant::now());
        if let Some(status) = self.refused(&head) {
            // Whoever is answered before all of his request is taken finds his connection broken.
            let left = length_of(&head).saturating_sub(rest.len()) as u64;
            tokio::io::copy(&mut from_client.take(left), &mut tokio::io::sink()).await?;
            return to_client.write_all(refusal(status).as_bytes()).await;
        }
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let (mut from_server, mut to_server) = TcpStream::connect(upstream).await?.into_split();
        let request = tokio::spawn(async move {
            to_server.write_all(&last_of_its_connection(&head)).await?;
            to_server.write_all(&rest).await?;
            tokio::io::copy(&mut from_client, &mut to_server).await
        });
        let answer = read_head(&mut from_server).await;
        tokio::time::sleep(self.hold).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let (head, rest) = answer?;
        let length = length_of(&head);
        let take = |left: usize| left.checked_sub(1);
        let is_cut = is_read
            && length > LONG
            && self.to_cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        to_client.write_all(&last_of_its_connection(&head)).await?;
        to_client.write_all(&rest).await?;
        let left = if is_cut { (length / 2).saturating_sub(rest.len()) as u64 } else { u64::MAX };
        tokio::io::copy(&mut from_server.take(left), &mut to_client).await?;
        request.abort();
        Ok(())
    }
}

fn refusal(status: u16) -> String {
    let body = match status {
        // That of a server has a code.
        404 => "<html><body>404 Not Found</body></html>",
        409 => "<Error><Code>ConditionalRequestConflict</Code></Error>",
        429 | 503 => "<Error><Code>SlowDown</Code></Error>",
        _ => "<Error><Code>InternalError</Code></Error>",
    };
    let length = body.len();
    format!("HTTP/1.1 {status} Refused\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// Everything up to the empty line, and what came with it.
async fn read_head(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return Ok((head, rest));
        }
        if from.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn last_of_its_connection(head: &[u8]) -> Vec<u8> {
    let first = head.windows(2).position(|bytes| bytes == b"\r\n").unwrap() + 2;
    [&head[..first], b"Connection: close\r\n", &head[first..]].concat()
}

fn length_of(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.unwrap_or(0)
}
