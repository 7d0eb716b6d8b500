//! Who may do what, and what people are told: an exit code, one sentence, what to do next, and nothing changed.
#![allow(clippy::unwrap_used)]

mod clones;
mod reports;
mod tokens;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use holdfast_proto::error::{ERROR_TRAILER, detail_of};
use holdfast_proto::v1::agent_message::Kind;
use holdfast_proto::v1::agent_service_client::AgentServiceClient;
use holdfast_proto::v1::step_report::Outcome;
use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use holdfast_proto::v1::{
    AckResult, AgentMessage, CommitTransferRequest, Disk, ErrorDetail, Hello, OpenTransferRequest,
    StepAttempt, StepReport, controller_message,
};
use holdfast_tests::agent::Enrolment;
use holdfast_tests::{Agent, Answer, Cli, Image, Postgres, World, wait};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// What a refused request must not touch.
const TABLES: [&str; 9] = [
    "machines",
    "agents",
    "certificates",
    "enrolment_tokens",
    "api_keys",
    "jobs",
    "steps",
    "points",
    "requests",
];

fn unchanged<T>(world: &World, act: impl FnOnce() -> T) -> T {
    let before = world.database.row_counts(&TABLES);
    let done = act();
    assert_eq!(before, world.database.row_counts(&TABLES));
    done
}

/// The agent's program says one sentence, too.
fn assert_enrol_refused(answer: &Answer, word: &str) {
    assert_eq!(answer.code, 1, "{answer:?}");
    let errors: Vec<&str> = answer.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{answer:?}");
    assert!(answer.stderr.contains(word), "{word}: {answer:?}");
}

#[test]
fn a_token_is_good_for_as_many_agents_and_as_long_as_it_says() {
    let world = World::start();
    let enrolment = world.enrolment(&["--uses", "1", "--label", "env=prod"]);
    let mut first = world.new_agent("web1", &[]);
    let _ = first.enrol(&enrolment).succeeds();
    first.start();
    world.wait_for_machine("web1", "online");
    first.stop();
    assert_eq!(world.machine("web1")["labels"], serde_json::json!({"env": "prod"}));
    let second = world.new_agent("web2", &[]);
    unchanged(&world, || assert_enrol_refused(&second.enrol(&enrolment), "holdfast token create"));
    assert!(!second.state_dir.join("identity").try_exists().unwrap());

    let short = world.enrolment(&["--ttl", "1s"]);
    std::thread::sleep(Duration::from_millis(1500));
    unchanged(&world, || assert_enrol_refused(&second.enrol(&short), "holdfast token create"));
    let wrong = Enrolment { token: "not-a-token".to_owned(), ..enrolment };
    unchanged(&world, || assert_enrol_refused(&second.enrol(&wrong), "holdfast token create"));

    let taken = world.new_agent("web1", &[]);
    fs::remove_dir_all(&taken.state_dir).unwrap();
    let fresh = world.enrolment(&[]);
    unchanged(&world, || assert_enrol_refused(&taken.enrol(&fresh), "--name"));
    assert_eq!(
        world.database.number("SELECT uses::bigint FROM enrolment_tokens ORDER BY created_at DESC LIMIT 1"),
        0
    );
    let _ = second.enrol(&fresh).succeeds();
}

#[test]
fn an_agent_that_lost_its_identity_before_it_was_ever_seen_enrols_again() {
    let world = World::start();
    let mut agent = world.enrolled_agent("web1", &[]);
    let machine = world.machine("web1")["id"].clone();
    fs::remove_dir_all(&agent.state_dir).unwrap();
    let _ = agent.enrol(&world.enrolment(&[])).succeeds();
    assert_eq!(world.machine("web1")["id"], machine, "what it was given since stays");
    agent.start();
    world.wait_for_machine("web1", "online");
}

#[test]
fn an_enrolment_whose_answer_was_lost_is_answered_again() {
    let world = World::start();
    let uses = || world.database.number("SELECT sum(uses)::bigint FROM enrolment_tokens");
    let id = || world.machine("web1")["id"].clone();
    let mut agent = world.new_agent("web1", &[]);
    let token = world.enrolment(&["--uses", "1"]);
    agent.dies_enrolling(&token, &[], "agent::enrolled");
    let machine = id();
    assert!(!agent.state_dir.join("identity").try_exists().unwrap());
    // The token is this machine's now, under this name.
    let other = world.new_agent("web2", &[]);
    unchanged(&world, || assert_enrol_refused(&other.enrol(&token), "holdfast token create"));
    let _ = agent.enrol(&token).succeeds();
    assert_eq!((uses(), id()), (1, machine.clone()));
    agent.start();
    world.wait_for_machine("web1", "online");
    agent.stop();
    assert!(!agent.state_dir.join("enrolment.key").try_exists().unwrap());
    // Its key is forgotten: whoever has the token cannot make another agent with it.
    unchanged(&world, || assert_enrol_refused(&agent.enrol_again(&token), "holdfast token create"));

    let token = world.enrolment(&["--machine", "web1"]);
    agent.dies_enrolling(&token, &["--force"], "agent::enrolled");
    let _ = agent.enrol_again(&token).succeeds();
    assert_eq!((uses(), id()), (2, machine));
    assert_eq!(world.database.number("SELECT count(*) FROM agents"), 1);
    agent.start();
    world.wait_for_machine("web1", "online");
}

#[test]
fn another_ca_is_refused_on_both_sides() {
    let (world, other) = (World::start(), World::start());
    let foreign = Cli { ca_file: other.controller.ca_file(), ..world.cli.clone() };
    unchanged(&world, || foreign.run(&["token", "create"]).fails(1, "unreachable"));
    let agent = world.new_agent("web1", &[]);
    let enrolment = Enrolment { ca_file: other.controller.ca_file(), ..world.enrolment(&[]) };
    unchanged(&world, || assert_enrol_refused(&agent.enrol(&enrolment), "certificate"));
    assert!(!agent.state_dir.join("identity").try_exists().unwrap());

    // A certificate of the other controller's CA opens nothing here.
    let stranger = other.enrolled_agent("web1", &[]);
    let refused = tls_handshake(&world, &stranger).unwrap_err();
    assert_eq!(refused.to_string(), "received fatal alert: UnknownCA");
    let call = |from: &Agent| {
        let mut transfers = TransferServiceClient::new(run(async { channel(&world, Some(from)) }));
        run(transfers.open_transfer(open(UNKNOWN, UNKNOWN))).unwrap_err()
    };
    // Not an answer of any service.
    let refused = call(&stranger);
    assert!(!refused.metadata().contains_key(ERROR_TRAILER), "{refused:?}");
    assert!(std::error::Error::source(&refused).is_some(), "not by the transport: {refused:?}");
    // The same with a certificate of this controller's own CA is heard: there is only no such step.
    let own = world.enrolled_agent("web1", &[]);
    tls_handshake(&world, &own).unwrap();
    let refused = call(&own);
    assert_eq!(refusal(&refused), (Code::NotFound, "step_not_found".to_owned()), "{refused:?}");
}

/// Shows an agent's certificate to the agents' listener, and waits for the first byte that comes from there.
fn tls_handshake(world: &World, agent: &Agent) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.controller.ca_file()).unwrap()).unwrap();
    let identity = |name: &str| agent.state_dir.join("identity").join(name);
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(identity("cert.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(identity("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = world.controller.agents();
    let address = address.strip_prefix("https://").unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(address.rsplit_once(':').unwrap().0.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, socket);
    // In TLS 1.3 the client is through before the server has looked at its certificate: the answer tells.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    stream.read_exact(&mut [0])
}

/// An id that nothing has.
const UNKNOWN: &str = "019a0000-0000-7000-8000-000000000000";

fn refusal(status: &Status) -> (Code, String) {
    (status.code(), detail_of(status).code)
}

#[test]
fn api_keys_decide_who_may_do_what() {
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let point = world.back_up("web1");
    let wrong = world.path("wrong-key");
    fs::write(&wrong, "hf_0123456789012345678901234567890123456789\n").unwrap();
    fs::set_permissions(&wrong, PermissionsExt::from_mode(0o640)).unwrap();
    let stranger = world.cli_with_key(wrong.clone());
    let exposed = stranger.run(&["status"]);
    assert!(exposed.stderr.contains(&format!("chmod 600 {}", wrong.display())), "{exposed:?}");
    let _ = exposed.fails(2, "file_exposed");
    fs::set_permissions(&wrong, PermissionsExt::from_mode(0o600)).unwrap();
    for command in [&["status"] as &[&str], &["machine", "list"], &["backup", "web1"], &["token", "create"]] {
        unchanged(&world, || stranger.run(command).fails(1, "api_key_refused"));
    }
    let viewer = world.cli_with_key(world.controller.create_api_key("looker", "viewer"));
    for command in
        [&["status"] as &[&str], &["machine", "list"], &["job", "list"], &["point", "show", &point]]
    {
        let _ = viewer.run(command).succeeds();
    }
    let file = world.path("out.raw");
    let restore = ["restore", &point, "--disk", "data", "--to", file.to_str().unwrap()];
    let job = world.cli.json(&["job", "list"])[0]["id"].as_str().unwrap().to_owned();
    for command in [&["backup", "web1"] as &[&str], &["token", "create"], &["job", "cancel", &job], &restore]
    {
        unchanged(&world, || viewer.run(command).fails(1, "role_too_low"));
    }
    assert!(!file.try_exists().unwrap());
}

#[test]
fn a_revoked_api_key_opens_nothing() {
    let world = World::start();
    let manage = |args: &[&str]| world.controller.manage_api_keys(args);
    let mine = world.cli_with_key(world.controller.create_api_key("alice@example.com", "viewer"));
    let _ = mine.run(&["status"]).succeeds();
    let listed = manage(&["list"]).succeeds().stdout;
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "ROLE", "CREATED"], "{listed}");
    assert_eq!(rows[1][..2], ["alice@example.com", "viewer"], "{listed}");
    assert_eq!(rows[2][..2], ["operator", "admin"], "{listed}");

    unchanged(&world, || {
        let refused = manage(&["revoke", "--name", "bob"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("there is no API key \"bob\"") && refused.stderr.contains("next: "));
    });
    let _ = manage(&["revoke", "--name", "alice@example.com"]).succeeds();
    wait::until("the key is refused", PATIENCE, || {
        let answer = mine.run(&["status"]);
        (answer.code != 0).then(|| answer.fails(1, "api_key_refused"))
    });
    let _ = world.cli.run(&["status"]).succeeds();
    assert!(!manage(&["list"]).succeeds().stdout.contains("alice"));
    // The name is free again, for another key.
    let again = world.path("again");
    fs::write(
        &again,
        manage(&["create", "--name", "alice@example.com", "--role", "viewer"]).succeeds().stdout,
    )
    .unwrap();
    fs::set_permissions(&again, PermissionsExt::from_mode(0o600)).unwrap();
    let _ = world.cli_with_key(again).run(&["status"]).succeeds();
    let _ = mine.run(&["status"]).fails(1, "api_key_refused");
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let point = world.back_up("web1");
    let unknown = UNKNOWN;
    let file = world.path("mine.raw");
    fs::write(&file, "mine").unwrap();
    let file = file.to_str().unwrap();
    let new = world.path("new.raw");
    let new = new.to_str().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["machine", "show", "web9"], "machine_not_found"),
        (&["backup", "web9"], "machine_not_found"),
        (&["backup", "web1", "--disk", "nope"], "disk_not_found"),
        (&["point", "list", "web9"], "machine_not_found"),
        (&["point", "show", unknown], "point_not_found"),
        (&["job", "show", unknown], "job_not_found"),
        (&["restore", &point, "--disk", "data", "--to", file], "target_exists"),
        (&["restore", unknown, "--disk", "data", "--to", new], "point_not_found"),
        (&["restore", &point, "--disk", "nope", "--to", new], "disk_not_found"),
    ];
    for (command, code) in cases {
        unchanged(&world, || world.cli.run(command).fails(1, code));
    }
    assert_eq!(fs::read(file).unwrap(), b"mine");
    for leftover in [format!("{file}.partial"), format!("{new}.partial"), new.to_owned()] {
        assert!(!fs::exists(&leftover).unwrap(), "{leftover}");
    }
    let _ = world.cli.run(&["restore", &point, "--disk", "data", "--to", file, "--overwrite"]).succeeds();
    holdfast_tests::image::assert_same(&image.path, file.as_ref());

    let nobody = Cli { address: "https://127.0.0.1:1".to_owned(), ..world.cli.clone() };
    let _ = nobody.run(&["status"]).fails(1, "unreachable");
    // The key does not go out in clear.
    let plain = Cli { address: world.cli.address.replace("https://", "http://"), ..world.cli.clone() };
    let _ = plain.run(&["status"]).fails(2, "bad_configuration");
    let no_ca = Cli { ca_file: world.cli.api_key_file.clone(), ..world.cli.clone() };
    let _ = no_ca.run(&["status"]).fails(2, "bad_configuration");
    let _ = Cli { api_key_file: world.path("none"), ..world.cli.clone() }
        .run(&["status"])
        .fails(2, "file_not_readable");
    let unset = Cli { address: String::new(), ..world.cli.clone() };
    assert_eq!(unset.run(&["status"]).code, 2);
    assert_eq!(world.cli.run(&["no-such-command"]).code, 2);
    assert_eq!(world.cli.run(&["--help"]).code, 0);
}

fn run<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap()).block_on(work)
}

/// A connection to the agents' listener with an agent's certificate, or with none.
fn channel(world: &World, agent: Option<&Agent>) -> Channel {
    let ca = fs::read(world.controller.ca_file()).unwrap();
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some(agent) = agent {
        let read = |name: &str| fs::read(agent.state_dir.join("identity").join(name)).unwrap();
        tls = tls.identity(Identity::from_pem(read("cert.pem"), read("key.pem")));
    }
    Endpoint::from_shared(world.controller.agents()).unwrap().tls_config(tls).unwrap().connect_lazy()
}

fn open(step: &str, snapshot: &str) -> OpenTransferRequest {
    OpenTransferRequest {
        attempt: Some(StepAttempt { step_id: step.to_owned(), attempt: 1 }),
        snapshot_id: snapshot.to_owned(),
        disks: vec![Disk { name: "data".to_owned(), size_bytes: 48 * MIB }],
    }
}

#[test]
fn an_agent_acts_for_its_own_machine_alone() {
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 48 * MIB, 1);
    let intruder = world.enrolled_agent("a", &[]);
    let mut victim = world.enrolled_agent("b", &[("data", &image.path)]);
    victim.start_with("agent::frame_acked=sleep(200)");
    world.wait_for_machine("b", "online");
    let job = world.start_backup("b");
    let step = wait::until("the transfer", PATIENCE, || {
        let step = world.job(&job)["steps"][1].clone();
        (step["state"] == "running").then(|| step["id"].as_str().unwrap().to_owned())
    });

    let from = |agent: Option<&Agent>| run(async { channel(&world, agent) });
    let transfers = |agent| TransferServiceClient::new(from(agent));
    let snapshot = world.database.texts("SELECT snapshot_id::text FROM jobs").remove(0);
    let request = open(&step, &snapshot);
    let foreign = |code: &str| (Code::PermissionDenied, code.to_owned());
    let refused = run(transfers(Some(&intruder)).open_transfer(request.clone())).unwrap_err();
    assert_eq!(refusal(&refused), foreign("foreign_step"), "{refused:?}");
    let refused = run(transfers(None).open_transfer(request.clone())).unwrap_err();
    assert_eq!(refusal(&refused), (Code::Unauthenticated, "no_certificate".to_owned()), "{refused:?}");

    // Not even who knows the id of the transfer may commit it. While the victim holds still, it stays open under this id.
    victim.freeze();
    let opened = run(transfers(Some(&victim)).open_transfer(request.clone())).unwrap().into_inner();
    let commit = CommitTransferRequest {
        attempt: request.attempt,
        transfer_id: opened.transfer_id,
        ..CommitTransferRequest::default()
    };
    let refused = run(transfers(Some(&intruder)).commit_transfer(commit)).unwrap_err();
    assert_eq!(refusal(&refused), foreign("foreign_transfer"), "{refused:?}");
    victim.thaw();

    let answer = run(report_failure(from(Some(&intruder)), &step));
    assert_eq!(answer, AckResult::Stale, "a report about somebody else's step");

    let ended = world.wait_for_job(&job);
    assert_eq!(
        (&ended["state"], &ended["steps"][1]["attempt"]),
        (&"succeeded".into(), &1.into()),
        "{ended:#}"
    );
    world.assert_restores(ended["point"].as_str().unwrap(), "data", &image.path);
}

/// As an agent, says that a step of somebody else failed, and returns how that is acknowledged.
async fn report_failure(channel: Channel, step: &str) -> AckResult {
    let hello = Hello { boot_id: "raw".to_owned(), ..Hello::default() };
    let detail =
        ErrorDetail { code: "made_up".to_owned(), message: "made up".to_owned(), ..ErrorDetail::default() };
    let report = StepReport {
        attempt: Some(StepAttempt { step_id: step.to_owned(), attempt: 1 }),
        sequence: 1_000_000,
        outcome: Some(Outcome::Failed(detail)),
    };
    let messages =
        [Kind::Hello(hello), Kind::Report(report.clone())].map(|kind| AgentMessage { kind: Some(kind) });
    let messages = tokio_stream::iter(messages).chain(futures::stream::pending());
    let mut answers = AgentServiceClient::new(channel).session(messages).await.unwrap().into_inner();
    let answer = async {
        loop {
            let message = answers.message().await.unwrap().expect("the session ended without an answer");
            if let Some(controller_message::Kind::Ack(ack)) = message.kind {
                assert_eq!((&ack.attempt, ack.sequence), (&report.attempt, report.sequence));
                return ack.result();
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.expect("the report was never acknowledged")
}

#[test]
fn a_certificate_is_renewed_on_a_live_session() {
    let world = World::start_with(Postgres::shared(), &[("certificate_lifetime", "8s")]);
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 1);
    let agent = world.running_agent("web1", &[("data", &image.path)]);
    let first = fs::read(agent.state_dir.join("identity/cert.pem")).unwrap();
    let epoch = || world.database.number("SELECT epoch FROM agent_sessions");
    let opened = epoch();
    wait::until("the first certificate to be over", PATIENCE, || {
        let over = "SELECT count(*) FROM certificates WHERE not_after < now() - interval '2 seconds'";
        (world.database.number(over) > 0).then_some(())
    });
    assert!(world.database.number("SELECT count(*) FROM certificates") >= 2);
    assert_ne!(first, fs::read(agent.state_dir.join("identity/cert.pem")).unwrap());
    assert_eq!(epoch(), opened, "the session did not stay up");
    assert_eq!(world.machine("web1")["state"], "online");
    let point = world.back_up("web1");
    world.assert_restores(&point, "data", &image.path);
}

#[test]
fn an_agent_whose_certificate_ran_out_says_so_and_gets_a_new_one() {
    let world = World::start_with(Postgres::shared(), &[("certificate_lifetime", "3s")]);
    let mut agent = world.enrolled_agent("web1", &[]);
    std::thread::sleep(Duration::from_secs(4));
    agent.start();
    let log = world.logs().join("agent-web1.log");
    wait::until("the agent to say what to do", PATIENCE, || {
        fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("holdfast token create --machine web1")
            .then_some(())
    });
    agent.kill();
    let answer = agent.enrol_again(&world.enrolment(&["--machine", "web1"]));
    let _ = answer.succeeds();
    agent.start();
    world.wait_for_machine("web1", "online");
}
