use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message as _;
use tonic::Code;
use tonic::codegen::http::HeaderValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server};
use tower::ServiceExt as _;

use holdfast_gateway::{AgentIdentity, OperatorIdentity, Role};
use holdfast_proto::error::detail_of;
use holdfast_proto::v1::agent_service_client::AgentServiceClient;
use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use holdfast_proto::v1::{CellFrame, RenewCertificateRequest};

use super::*;
use crate::listen::{Limits, Listener};
use crate::pki::tests::{agent_request, new_ca, requested};
use crate::pki::{Ca, ServerIdentity, agents_tls};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIMITS: Limits = Limits {
    connections: 64,
    handshakes: 64,
    handshake_timeout: Duration::from_secs(5),
    stranger_lifetime: None,
};

/// Knows one agent by one certificate, and one API key.
#[derive(Clone)]
struct Known(Arc<KnownInner>);

struct KnownInner {
    agent: AgentId,
    serial: String,
    key: [u8; 32],
    look_ups: AtomicUsize,
}

#[tonic::async_trait]
impl Credentials for Known {
    async fn agent_is_active(&self, agent: AgentId, serial: &str) -> Result<bool, Status> {
        Ok(agent == self.0.agent && serial == self.0.serial)
    }

    async fn find_api_key(&self, sha256: &[u8; 32]) -> Result<Option<ApiKey>, Status> {
        self.0.look_ups.fetch_add(1, Ordering::Relaxed);
        Ok((*sha256 == self.0.key).then(|| ApiKey { name: "alice".to_owned(), role: Role::Viewer }))
    }
}

fn known(agent: AgentId, serial: &str, key: &KeyText) -> Known {
    let look_ups = AtomicUsize::new(0);
    Known(Arc::new(KnownInner { agent, serial: serial.to_owned(), key: key.sha256(), look_ups }))
}

/// Says OK to whatever it is asked, and whom it takes the caller for.
async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let mut response = Status::ok("").into_http();
    let agent = request.extensions().get::<AgentIdentity>().map(|agent| agent.0.to_string());
    let agent = HeaderValue::from_str(&agent.unwrap_or_default()).unwrap();
    response.headers_mut().insert("x-agent", agent);
    Ok(response)
}

/// An agents' listener in front of [`answer`].
fn serve(ca: &Ca, credentials: Known) -> SocketAddr {
    let listener = Listener::bind("agents", (Ipv4Addr::LOCALHOST, 0).into(), LIMITS).unwrap();
    let address = listener.address();
    let tls = agents_tls(ca, ServerIdentity::new(ca.clone(), &[]).unwrap()).unwrap();
    let connections = listener.accept(tls, tokio_util::sync::CancellationToken::new());
    let server = Server::builder().layer(GateLayer::new(AgentGate(credentials)));
    tokio::spawn(server.serve_with_incoming(tower::service_fn(answer), connections));
    address
}

fn channel(address: SocketAddr, ca: &Ca, identity: Option<Identity>) -> Channel {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.certificate_pem()));
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", address.port())).unwrap();
    endpoint.timeout(Duration::from_secs(5)).tls_config(tls).unwrap().connect_lazy()
}

/// Calls a method with an empty message: the status, and whom the service took the caller for. An error of the transport
/// is `None`.
async fn call(channel: &Channel, path: &str) -> Option<(Status, String)> {
    let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let response = channel.clone().oneshot(request.body(Body::empty()).unwrap()).await.ok()?;
    let agent = response.headers().get("x-agent").map(|value| value.to_str().unwrap().to_owned());
    Some((Status::from_header_map(response.headers()).unwrap(), agent.unwrap_or_default()))
}

/// Every method of the contract.
fn all_methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(holdfast_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
    services
        .flat_map(|(file, service)| {
            let path = move |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            service.method.iter().map(move |method| path(method.name()))
        })
        .collect()
}

const SESSION: &str = "/holdfast.v1.AgentService/Session";

#[tokio::test]
async fn an_agent_is_known_by_its_certificate_and_a_stranger_may_only_enrol() {
    let ca = new_ca();
    let agent = AgentId::generate();
    let (key, request) = agent_request();
    let certificate = ca.sign_agent(&requested(&request), agent, DAY).unwrap();
    let address = serve(&ca, known(agent, &certificate.serial, &KeyText::generate()));

    let identity = Identity::from_pem(&certificate.chain_pem, key.serialize_pem());
    let (status, seen) = call(&channel(address, &ca, Some(identity.clone())), SESSION).await.unwrap();
    assert_eq!((status.code(), seen), (Code::Ok, agent.to_string()));

    let stranger = channel(address, &ca, None);
    let methods = all_methods();
    assert!(methods.len() > 15, "{methods:?}");
    for method in methods {
        let (status, seen) = call(&stranger, &method).await.unwrap();
        assert_eq!(seen, "", "{method}");
        if method == "/holdfast.v1.AgentService/Enroll" {
            assert_eq!(status.code(), Code::Ok);
        } else {
            assert_eq!(status.code(), Code::Unauthenticated, "{method}");
            let detail = detail_of(&status);
            assert_eq!(detail.code, "no_certificate");
            assert!(!detail.action.is_empty());
        }
    }
    for near in [
        "/holdfast.v1.AgentService/Enroll/",
        "/holdfast.v1.AgentService/enroll",
        "//holdfast.v1.AgentService/Enroll",
    ] {
        assert_eq!(call(&stranger, near).await.unwrap().0.code(), Code::Unauthenticated, "{near}");
    }
}

#[tokio::test]
async fn certificates_that_are_not_current_are_refused() {
    let ca = new_ca();
    let agent = AgentId::generate();
    let (key, request) = agent_request();
    let current = ca.sign_agent(&requested(&request), agent, DAY).unwrap();
    let address = serve(&ca, known(agent, &current.serial, &KeyText::generate()));
    let with =
        |chain_pem: &str| channel(address, &ca, Some(Identity::from_pem(chain_pem, key.serialize_pem())));

    // The same key and name, but nobody recorded this certificate; and another agent.
    for agent in [agent, AgentId::generate()] {
        let unknown = ca.sign_agent(&requested(&request), agent, DAY).unwrap();
        let (status, _) = call(&with(&unknown.chain_pem), SESSION).await.unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(detail_of(&status).code, "agent_revoked");
    }

    // A stranger's authority that signs the same name; even enrolment is refused then.
    let foreign = with(&new_ca().sign_agent(&requested(&request), agent, DAY).unwrap().chain_pem);
    assert!(call(&foreign, SESSION).await.is_none());
    assert!(call(&foreign, "/holdfast.v1.AgentService/Enroll").await.is_none());

    let short = ca.sign_agent(&requested(&request), agent, Duration::from_secs(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(call(&with(&short.chain_pem), SESSION).await.is_none());

    assert_eq!(call(&with(&current.chain_pem), SESSION).await.unwrap().0.code(), Code::Ok);
}

/// The refusal overtakes a request that is still being sent; the caller has to get it all the same.
#[tokio::test]
async fn a_refusal_arrives_although_nobody_reads_the_request() {
    let ca = new_ca();
    let address = serve(&ca, known(AgentId::generate(), "", &KeyText::generate()));
    let mut agents = AgentServiceClient::new(channel(address, &ca, None));
    let mut transfers = TransferServiceClient::new(channel(address, &ca, None));
    for _ in 0..200 {
        let request = RenewCertificateRequest { csr_der: vec![1; 100_000] };
        let status = agents.renew_certificate(request).await.unwrap_err();
        assert_eq!(
            (status.code(), detail_of(&status).code.as_str()),
            (Code::Unauthenticated, "no_certificate")
        );
        let frames = futures::stream::iter((0..20).map(|_| CellFrame::default()));
        let status = transfers.send_cells(frames).await.unwrap_err();
        assert_eq!(
            (status.code(), detail_of(&status).code.as_str()),
            (Code::Unauthenticated, "no_certificate")
        );
    }
}

fn operator_request(path: &str, authorization: Option<&str>) -> Request<()> {
    let mut request = Request::post(path);
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    request.body(()).unwrap()
}

#[tokio::test]
async fn an_operator_is_known_by_the_api_key() {
    let key = KeyText::generate();
    let known = known(AgentId::generate(), "", &key);
    let gate = OperatorGate::new(known.clone());
    let path = "/holdfast.v1.StatusService/GetStatus";
    for scheme in ["Bearer", "bearer"] {
        let mut request = operator_request(path, Some(&format!("{scheme} {}", key.reveal())));
        gate.admit(&mut request).await.unwrap();
        let operator = request.extensions().get::<OperatorIdentity>().unwrap();
        assert_eq!((operator.name.as_str(), operator.role), ("alice", Role::Viewer));
        assert!(request.headers().is_empty(), "the secret goes no further");
    }
    assert_eq!(known.0.look_ups.load(Ordering::Relaxed), 1, "remembered for a moment");

    let mut health = operator_request("/grpc.health.v1.Health/Check", None);
    gate.admit(&mut health).await.unwrap();
    assert!(health.extensions().get::<OperatorIdentity>().is_none());
}

#[tokio::test]
async fn wrong_api_keys_are_refused_and_told_what_to_do() {
    let key = KeyText::generate();
    let known = known(AgentId::generate(), "", &key);
    let gate = OperatorGate::new(known.clone());
    let other = format!("Bearer {}", KeyText::generate().reveal());
    let basic = format!("Basic {}", key.reveal());
    let cases = [
        (None, "no_api_key"),
        (Some(other.as_str()), "api_key_refused"),
        (Some(basic.as_str()), "api_key_refused"),
        (Some(key.reveal()), "api_key_refused"),
        (Some("Bearer "), "api_key_refused"),
        (Some("Bearer hfk_1"), "api_key_refused"),
    ];
    for (authorization, code) in cases {
        for path in [
            "/holdfast.v1.StatusService/GetStatus",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            let mut request = operator_request(path, authorization);
            let status = gate.admit(&mut request).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{authorization:?}");
            let detail = detail_of(&status);
            assert_eq!(detail.code, code, "{authorization:?}");
            assert!(!detail.action.is_empty());
            assert!(request.extensions().get::<OperatorIdentity>().is_none());
        }
    }
    assert_eq!(known.0.look_ups.load(Ordering::Relaxed), 2, "only what looks like a key is looked up");
}
