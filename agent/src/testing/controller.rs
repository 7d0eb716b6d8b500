//! A controller whose sessions are played by the test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::ids::StepId;
use holdfast_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use holdfast_proto::v1::transfer_service_server::TransferServiceServer;
use holdfast_proto::v1::{
    AckResult, AgentMessage, AttemptVerdict, ControllerMessage, Dispatch, EnrollRequest, EnrollResponse,
    Hello, RenewCertificateRequest, RenewCertificateResponse, ReportAck, StepReport, Verdict, Welcome,
    agent_message, controller_message, dispatch, step_report::Outcome,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::gateway::TestGateway;
use super::pki::TestCa;
use crate::attempt::Attempt;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Life of the certificates that it signs.
const LIFETIME: Duration = Duration::from_secs(3600);

pub(crate) struct TestController {
    pub(crate) ca: Arc<TestCa>,
    pub(crate) address: SocketAddr,
    pub(crate) gateway: TestGateway,
    sessions: mpsc::Receiver<TestSession>,
    server: tokio::task::JoinHandle<()>,
}

/// One session, played by the test.
pub(crate) struct TestSession {
    inbound: Streaming<AgentMessage>,
    outbound: mpsc::Sender<Result<ControllerMessage, Status>>,
    /// Serial number of the certificate that the agent showed.
    pub(crate) serial: String,
}

struct Service {
    ca: Arc<TestCa>,
    sessions: mpsc::Sender<TestSession>,
}

impl Drop for TestController {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TestController {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ca, gateway) = (Arc::new(TestCa::new()), TestGateway::default());
        let (sender, sessions) = mpsc::channel(16);
        let service = Service { ca: Arc::clone(&ca), sessions: sender };
        let router = Server::builder()
            .tls_config(ca.server_tls())
            .unwrap()
            .add_service(AgentServiceServer::new(service))
            .add_service(TransferServiceServer::new(gateway.clone()).max_decoding_message_size(4 << 20));
        let server = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { ca, address, gateway, sessions, server }
    }

    /// The next session and its Hello.
    pub(crate) async fn session(&mut self) -> (TestSession, Hello) {
        let mut session = tokio::time::timeout(PATIENCE, self.sessions.recv()).await.unwrap().unwrap();
        let first = session.message().await;
        let agent_message::Kind::Hello(hello) = first else { panic!("not a Hello: {first:?}") };
        (session, hello)
    }

    /// The next session, welcome.
    pub(crate) async fn welcome(&mut self) -> TestSession {
        let (session, _) = self.session().await;
        session.send(controller_message::Kind::Welcome(Welcome::default())).await;
        session
    }
}

impl TestSession {
    pub(crate) async fn message(&mut self) -> agent_message::Kind {
        tokio::time::timeout(PATIENCE, self.inbound.message()).await.unwrap().unwrap().unwrap().kind.unwrap()
    }

    pub(crate) async fn send(&self, kind: controller_message::Kind) {
        self.outbound.send(Ok(ControllerMessage { kind: Some(kind) })).await.unwrap();
    }

    /// Ends the session with this error.
    pub(crate) async fn refuse(self, status: Status) {
        self.outbound.send(Err(status)).await.unwrap();
    }

    pub(crate) async fn abandon(&self, attempts: Vec<Attempt>, remove_snapshot_ids: Vec<String>) {
        let attempts = attempts
            .into_iter()
            .map(|attempt| AttemptVerdict {
                attempt: Some(attempt.to_wire()),
                verdict: Verdict::Abandon.into(),
            })
            .collect();
        let welcome = Welcome { attempts, remove_snapshot_ids, ..Welcome::default() };
        self.send(controller_message::Kind::Welcome(welcome)).await;
    }

    pub(crate) async fn dispatch(&self, attempt: Attempt, step: dispatch::Step) {
        let dispatch = Dispatch { attempt: Some(attempt.to_wire()), step: Some(step) };
        self.send(controller_message::Kind::Dispatch(dispatch)).await;
    }

    /// Dispatches a new step and waits for its result, which is acknowledged.
    pub(crate) async fn carry_out(&mut self, step: dispatch::Step) -> Outcome {
        let attempt = Attempt { step: StepId::generate(), number: 1 };
        self.dispatch(attempt, step).await;
        let report = self.terminal_report().await;
        assert_eq!(report.attempt, Some(attempt.to_wire()));
        self.acknowledge(&report, AckResult::Recorded).await;
        report.outcome.unwrap()
    }

    /// The next report that is no progress; everything else is skipped.
    pub(crate) async fn terminal_report(&mut self) -> StepReport {
        loop {
            if let agent_message::Kind::Report(report) = self.message().await
                && !matches!(report.outcome, Some(Outcome::Progress(_)))
            {
                return report;
            }
        }
    }

    pub(crate) async fn acknowledge(&self, report: &StepReport, result: AckResult) {
        let ack =
            ReportAck { attempt: report.attempt.clone(), sequence: report.sequence, result: result.into() };
        self.send(controller_message::Kind::Ack(ack)).await;
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        assert!(request.peer_certs().is_none_or(|certificates| certificates.is_empty()));
        let request = request.into_inner();
        if request.token != "good" {
            return Err(Status::unauthenticated("the token is not valid"));
        }
        Ok(Response::new(EnrollResponse {
            agent_id: uuid::Uuid::new_v4().to_string(),
            machine_id: uuid::Uuid::new_v4().to_string(),
            certificate_chain_pem: self.ca.sign(&request.csr_der, LIFETIME),
            ca_pem: self.ca.pem.clone(),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        serial(&request)?;
        Ok(Response::new(RenewCertificateResponse {
            certificate_chain_pem: self.ca.sign(&request.into_inner().csr_der, LIFETIME),
            ca_pem: self.ca.pem.clone(),
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let serial = serial(&request)?;
        let (outbound, answers) = mpsc::channel(16);
        let session = TestSession { inbound: request.into_inner(), outbound, serial };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn serial<T>(request: &Request<T>) -> Result<String, Status> {
    let certificates = request.peer_certs().ok_or_else(|| Status::unauthenticated("no certificate"))?;
    let (_, leaf) = x509_parser::parse_x509_certificate(&certificates[0]).unwrap();
    Ok(leaf.raw_serial_as_string())
}
