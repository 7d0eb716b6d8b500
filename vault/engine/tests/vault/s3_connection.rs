//! What lies between gateway and server: TLS, and connections that are cut.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use holdfast_vault_engine::{Arbiter, Outcome, Problem, S3, S3Limits, Storage, Vault, VaultError, chain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::arbiter::Names;
use super::support::proxy::Proxy;
use super::support::s3::{S3Vault, Server, new_key};
use super::support::{Image, back_up, good_points, restore_disk};

#[tokio::test(flavor = "multi_thread")]
async fn s3_only_the_named_authority_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let Some(server) = Server::own(&["-c", cert.to_str().unwrap(), "-k", key.to_str().unwrap()]) else {
        return;
    };
    let (_dir, vault_key) = new_key();
    let other = dir.path().join("other.pem");
    let another = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&other, another.cert.pem()).unwrap();
    let limits = S3Limits { retry_for: Duration::from_secs(1), ..S3Limits::default() };
    for (ca_file, expected) in
        [(Some(cert), Problem::NoBucket), (Some(other), Problem::Certificate), (None, Problem::Certificate)]
    {
        let place = S3 { ca_file, limits, ..server.place() };
        let error = Vault::open(Storage::s3(&place).unwrap(), &vault_key).await.unwrap_err();
        assert!(
            matches!(error, VaultError::Unusable { problem, .. } if problem == expected),
            "{expected:?}: {error:?}"
        );
    }
}

/// Requests are carried out, their answers never come: every fifth is cut off with its connection.
#[tokio::test(flavor = "multi_thread")]
async fn s3_lost_answers_cost_no_backup() {
    let Some(mut server) = Server::start() else { return };
    let upstream: SocketAddr = server.endpoint.strip_prefix("http://").unwrap().parse().unwrap();
    let cut = Arc::new(AtomicUsize::new(0));
    server.endpoint = format!("http://{}", cutting_proxy(upstream, Arc::clone(&cut)).await);
    let test = S3Vault::new(server.place()).await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(1, 1 << 20);
    for round in 0..4 {
        image.change(round, 20);
        let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        restore_disk(&test.vault, &point, "sda", &image).await;
    }
    assert!(cut.load(Ordering::SeqCst) > 10, "{cut:?} answers were lost");
    let seqs: Vec<u64> = good_points(&test.vault, machine).await.iter().map(|point| point.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4], "a name was given up");
    assert!(test.vault.unconcluded(machine).await.unwrap().is_empty());
}

/// What is asked for again while the broken answer is still held does not wait for that to end.
#[tokio::test(flavor = "multi_thread")]
async fn s3_answers_that_break_off_hold_nothing_up() {
    let Some(mut server) = Server::start() else { return };
    let proxy = Proxy::before(&mut server, Duration::ZERO).await;
    for requests_in_flight in [1, 3] {
        let requests_in_flight = NonZeroU32::new(requests_in_flight).unwrap();
        let limits = S3Limits { requests_in_flight, ..S3Limits::default() };
        let test = S3Vault::new(S3 { limits, ..server.place() }).await;
        let image = Image::noise(2, 24 << 20);
        let point = back_up(&test.vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
        proxy.cut(5);
        let restored = restore_disk(&test.vault, &point, "sda", &image);
        tokio::time::timeout(Duration::from_secs(60), restored).await.expect("all wait for each other");
        assert_eq!(proxy.left_to_cut(), 0);
    }
}

/// Whoever reads a disk and does not get on, since his network does not, has no request in flight.
#[tokio::test(flavor = "multi_thread")]
async fn s3_a_reader_that_stands_still_holds_nobody_up() {
    let Some(server) = Server::start() else { return };
    let limits = S3Limits { requests_in_flight: NonZeroU32::MIN, ..S3Limits::default() };
    let test = S3Vault::new(S3 { limits, ..server.place() }).await;
    let (machine, image) = (Uuid::new_v4(), Image::noise(3, 40 << 20));
    let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let mut windows = Box::pin(test.vault.open_disk(&point, "sda").await.unwrap().windows());
    assert!(windows.next().await.unwrap().is_ok());
    let other = tokio::time::timeout(Duration::from_secs(30), good_points(&test.vault, machine));
    assert_eq!(other.await.expect("it waits for the one that stands still").len(), 1);
    assert!(windows.all(|window| std::future::ready(window.is_ok())).await);
}

/// 409 is "another conditional request is under way": nobody may have written.
#[tokio::test(flavor = "multi_thread")]
async fn s3_a_server_that_is_busy_for_a_moment_costs_no_backup() {
    let Some(mut server) = Server::start() else { return };
    let proxy = Proxy::before(&mut server, Duration::ZERO).await;
    let test = S3Vault::new(server.place()).await;
    let (machine, mut image) = (Uuid::new_v4(), Image::noise(5, 1 << 20));
    let cases = [500, 503, 429, 409].map(|status| (status, "PUT"));
    let cases: Vec<_> = cases.into_iter().chain([500, 503, 429].map(|status| (status, "GET"))).collect();
    for (round, (status, method)) in (0..).zip(&cases) {
        image.change(round, 20);
        proxy.refuse(3, *status, method, "");
        let point = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
        restore_disk(&test.reopen().await, &point, "sda", &image).await;
        assert_eq!(proxy.left_to_refuse(), 0, "no {method} was answered with {status}");
    }
    let seqs: Vec<u64> = good_points(&test.vault, machine).await.iter().map(|point| point.seq).collect();
    assert_eq!(seqs, (1..=cases.len() as u64).collect::<Vec<_>>(), "a name was given up");
    assert!(test.vault.unconcluded(machine).await.unwrap().is_empty());
}

/// However often that is: the first pauses are short.
#[tokio::test(flavor = "multi_thread")]
async fn s3_a_request_is_tried_again_for_as_long_as_was_said() {
    let Some(mut server) = Server::start() else { return };
    let proxy = Proxy::before(&mut server, Duration::ZERO).await;
    let test = S3Vault::new(server.place()).await;
    proxy.refuse(11, 503, "GET", "/vault.json");
    test.reopen().await.check_present().await.unwrap();
    assert_eq!(proxy.left_to_refuse(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_server_that_stays_busy_is_given_up_in_time_and_in_its_words() {
    let Some(mut server) = Server::start() else { return };
    let proxy = Proxy::before(&mut server, Duration::ZERO).await;
    let limits = S3Limits { retry_for: Duration::from_millis(500), ..S3Limits::default() };
    let test = S3Vault::new(S3 { limits, ..server.place() }).await;
    let (machine, mut image) = (Uuid::new_v4(), Image::noise(6, 1 << 20));
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &first, "sda", &image).await;
    image.change(1, 20);
    for (status, method, said) in [
        (500, "PUT", "InternalError"),
        (503, "PUT", "SlowDown"),
        (429, "PUT", "SlowDown"),
        (409, "PUT", "ConditionalRequestConflict"),
        (500, "GET", "InternalError"),
        (503, "GET", "SlowDown"),
        (429, "GET", "SlowDown"),
    ] {
        proxy.refuse(usize::MAX, status, method, "");
        let started = Instant::now();
        let error = if method == "PUT" {
            back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap_err()
        } else {
            Vault::open(Storage::s3(&test.place).unwrap(), &test.key).await.unwrap_err()
        };
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(15), "{method}, {status}: {taken:?}");
        assert!(matches!(error, VaultError::Storage { .. }), "{method}, {status}: {error:?}");
        assert!(error.is_retryable() && chain(&error).contains(said), "{}", chain(&error));
    }
    proxy.refuse(0, 503, "", "");
    assert_eq!(good_points(&test.vault, machine).await, std::slice::from_ref(&first));
    let second = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &second, "sda", &image).await;
}

/// While a server fails over, what is in front of it knows of no object: where names are taken twice that would be a name to write to.
#[tokio::test(flavor = "multi_thread")]
async fn s3_what_only_a_proxy_does_not_know_is_not_written_over() {
    let Some(mut server) = Server::start() else { return };
    let proxy = Proxy::before(&mut server, Duration::ZERO).await;
    let limits = S3Limits { retry_for: Duration::from_secs(2), ..S3Limits::default() };
    let place = S3 { limits, ..server.place() };
    let (_dir, key) = new_key();
    Vault::create_arbitrated(Storage::s3(&place).unwrap(), &key).await.unwrap();
    let names: Arc<dyn Arbiter> = Arc::new(Names::default());
    let vault = Vault::open(Storage::s3(&place).unwrap().with_arbiter(names), &key).await.unwrap();
    let (machine, image) = (Uuid::new_v4(), Image::noise(4, 1 << 20));
    let point = back_up(&vault, machine, &[("sda", &image)]).await.unwrap();

    // Whether there is an outcome, then twice whether something has its name.
    proxy.refuse(3, 404, "GET", "/points/");
    let outcome = vault.conclude(machine, point.seq, "it seems dead").await.unwrap();
    assert_eq!(outcome, Outcome::Point(point.clone()));
    assert_eq!(proxy.left_to_refuse(), 0);

    // For longer than anybody has patience.
    proxy.refuse(usize::MAX, 404, "GET", "/points/");
    let error = vault.conclude(machine, point.seq, "it seems dead").await.unwrap_err();
    assert!(matches!(error, VaultError::Storage { .. }) && error.is_retryable(), "{error:?}");
    assert!(chain(&error).contains("404 without NoSuchKey"), "{}", chain(&error));
    proxy.refuse(0, 404, "", "");
    // The name was claimed all the same, and is let go without anything being written.
    assert_eq!(vault.finish_claims().await.unwrap(), 1);
    assert_eq!(good_points(&vault, machine).await, std::slice::from_ref(&point));
    restore_disk(&vault, &point, "sda", &image).await;
}

/// Passes everything on, but cuts the connection instead of every fifth piece of an answer.
async fn cutting_proxy(upstream: SocketAddr, cut: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let pieces = Arc::new(AtomicUsize::new(1));
        while let Ok((client, _)) = listener.accept().await {
            let (pieces, cut) = (Arc::clone(&pieces), Arc::clone(&cut));
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(upstream).await else { return };
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let request = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                });
                let mut answer = vec![0; 64 << 10];
                while let Ok(length @ 1..) = from_server.read(&mut answer).await {
                    if pieces.fetch_add(1, Ordering::SeqCst).is_multiple_of(5) {
                        cut.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                    if to_client.write_all(&answer[..length]).await.is_err() {
                        break;
                    }
                }
                request.abort();
            });
        }
    });
    address
}
