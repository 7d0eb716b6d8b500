use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::pki::tests::new_ca;
use crate::pki::{Ca, ServerIdentity, agents_tls, operators_tls};

const SOON: Duration = Duration::from_secs(5);

fn limits() -> Limits {
    Limits { connections: 100, handshakes: 32, handshake_timeout: SOON, stranger_lifetime: None }
}

fn bind(limits: Limits) -> Listener {
    Listener::bind("test", (Ipv4Addr::LOCALHOST, 0).into(), limits).unwrap()
}

async fn connect(address: SocketAddr, ca: &Ca) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Answers every connection with its own bytes.
fn echo(listener: Listener, tls: ServerConfig) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let mut connections = Box::pin(listener.accept(tls, shutdown.clone()));
    tokio::spawn(async move {
        while let Some(Ok(mut connection)) = connections.next().await {
            tokio::spawn(async move {
                let mut bytes = [0; 16];
                while let Ok(length @ 1..) = connection.read(&mut bytes).await {
                    connection.write_all(&bytes[..length]).await.unwrap();
                    connection.flush().await.unwrap();
                }
            });
        }
    });
    shutdown
}

async fn say(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let mut answer = [0; 2];
    stream.write_all(b"hi").await?;
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"hi");
    Ok(())
}

#[tokio::test]
async fn slow_and_wrong_handshakes_hold_nobody_up() {
    let ca = new_ca();
    let listener = bind(Limits { handshake_timeout: Duration::from_millis(1500), ..limits() });
    let address = listener.address();
    let _shutdown = echo(listener, operators_tls(ServerIdentity::new(ca.clone(), &[]).unwrap()).unwrap());

    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff"] {
        TcpStream::connect(address).await.unwrap().write_all(garbage).await.unwrap();
    }
    let distrusted = connect(address, &new_ca()).await.unwrap_err();
    assert!(distrusted.to_string().contains("invalid peer certificate"), "{distrusted}");

    let begin = Instant::now();
    let mut good = connect(address, &ca).await.unwrap();
    say(&mut good).await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(1400), "{:?}", begin.elapsed());

    for stream in &mut silent {
        let end =
            tokio::time::timeout(SOON, stream.read(&mut [0; 64])).await.expect("a silent peer is cut off");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    say(&mut good).await.unwrap();
}

#[tokio::test]
async fn handshakes_beyond_the_limit_wait_for_the_slow_ones_to_time_out() {
    let ca = new_ca();
    let timeout = Duration::from_millis(500);
    let listener = bind(Limits { handshakes: 2, handshake_timeout: timeout, ..limits() });
    let address = listener.address();
    let _shutdown = echo(listener, operators_tls(ServerIdentity::new(ca.clone(), &[]).unwrap()).unwrap());
    let begin = Instant::now();
    let _silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let mut good = tokio::time::timeout(SOON, connect(address, &ca)).await.unwrap().unwrap();
    say(&mut good).await.unwrap();
    assert!(begin.elapsed() >= timeout, "it did not wait: {:?}", begin.elapsed());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_until_one_ends() {
    let ca = new_ca();
    let listener = bind(Limits { connections: 1, ..limits() });
    let address = listener.address();
    let _shutdown = echo(listener, operators_tls(ServerIdentity::new(ca.clone(), &[]).unwrap()).unwrap());
    let mut first = connect(address, &ca).await.unwrap();
    say(&mut first).await.unwrap();
    let refused = tokio::time::timeout(SOON, connect(address, &ca)).await.expect("refused at once");
    let refused = refused.unwrap_err().kind();
    assert!(matches!(refused, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{refused}");
    say(&mut first).await.unwrap();
    drop(first);
    let begin = Instant::now();
    while connect(address, &ca).await.is_err() {
        assert!(begin.elapsed() < SOON, "the place of a closed connection stays taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stranger_among_the_agents_is_cut_off_in_time() {
    let ca = new_ca();
    let listener = bind(Limits { stranger_lifetime: Some(Duration::from_millis(500)), ..limits() });
    let address = listener.address();
    let identity = ServerIdentity::new(ca.clone(), &[]).unwrap();
    let _shutdown = echo(listener, agents_tls(&ca, identity).unwrap());
    let mut stranger = connect(address, &ca).await.unwrap();
    say(&mut stranger).await.unwrap();
    let end = tokio::time::timeout(SOON, stranger.read(&mut [0; 16])).await.expect("cut off");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_live_on() {
    let ca = new_ca();
    let listener = bind(limits());
    let address = listener.address();
    let identity = ServerIdentity::with_lifetime(ca.clone(), &[], Duration::from_secs(3)).unwrap();
    let _shutdown = echo(listener, operators_tls(Arc::clone(&identity)).unwrap());
    let leaf = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut old = connect(address, &ca).await.unwrap();
    let same = connect(address, &ca).await.unwrap();
    assert_eq!(leaf(&old), leaf(&same));

    let stop = CancellationToken::new();
    let renewing = tokio::spawn(identity.keep_renewed(stop.clone()));
    let begin = Instant::now();
    while leaf(&connect(address, &ca).await.unwrap()) == leaf(&old) {
        assert!(begin.elapsed() < SOON, "the certificate was not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begin.elapsed() > Duration::from_secs(1), "renewed long before 70 % of its life");
    // Beyond the life of the first certificate.
    tokio::time::sleep_until((begin + Duration::from_millis(4500)).into()).await;
    connect(address, &ca).await.unwrap();
    say(&mut old).await.unwrap();
    stop.cancel();
    renewing.await.unwrap();
}

#[tokio::test]
async fn the_port_is_closed_when_the_application_stops() {
    let ca = new_ca();
    let listener = bind(limits());
    let address = listener.address();
    let shutdown = echo(listener, operators_tls(ServerIdentity::new(ca.clone(), &[]).unwrap()).unwrap());
    connect(address, &ca).await.unwrap();
    shutdown.cancel();
    let begin = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begin.elapsed() < SOON, "the port is still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
