use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument as _, info, info_span};

use holdfast_proto::error::{ErrorDetailExt as _, system_error, user_error};
use holdfast_proto::ids::{AgentId, MachineId};
use holdfast_proto::v1::agent_service_server::AgentService;
use holdfast_proto::v1::{
    AgentMessage, ControllerMessage, EnrollRequest, EnrollResponse, RenewCertificateRequest,
    RenewCertificateResponse,
};

use crate::app::App;
use crate::domain::name::is_machine_name;
use crate::identity::revoked;
use crate::live::OUTBOUND;
use crate::pki::{AgentCertificate, RequestedKey, sha256};
use crate::session;
use crate::store::agent::NewAgent;

use super::caller;
use crate::rpc_error::invalid;

const MAX_CSR_BYTES: usize = 8 << 10;
const MAX_TOKEN_BYTES: usize = 128;
/// Signatures are the dearest thing that a stranger can ask for.
const ENROLMENTS_AT_ONCE: usize = 16;

#[derive(Debug)]
pub(crate) struct AgentApi {
    app: Arc<App>,
    enrolments: Semaphore,
}

impl AgentApi {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app, enrolments: Semaphore::new(ENROLMENTS_AT_ONCE) }
    }

    fn sign(&self, key: &RequestedKey, agent: AgentId) -> Result<AgentCertificate, Status> {
        self.app
            .ca
            .sign_agent(key, agent, self.app.timing.certificate_lifetime)
            .map_err(|error| invalid("invalid_csr", error.to_string()))
    }
}

fn requested_key(csr_der: &[u8]) -> Result<RequestedKey, Status> {
    if csr_der.len() > MAX_CSR_BYTES {
        return Err(invalid("invalid_csr", "the certificate request is larger than 8 KiB"));
    }
    RequestedKey::from_request(csr_der).map_err(|error| invalid("invalid_csr", error.to_string()))
}

/// An agent is who its token, its key and its machine's name say: one that asks again, since the answer was lost, is the same one.
fn agent_of(token_sha256: &[u8; 32], key: &RequestedKey, machine_name: &str) -> AgentId {
    let hash = sha256(&[&token_sha256[..], &key.sha256(), machine_name.as_bytes()].concat());
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    AgentId(uuid::Builder::from_custom_bytes(id).into_uuid())
}

#[tonic::async_trait]
impl AgentService for AgentApi {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let Ok(_permit) = self.enrolments.try_acquire() else {
            return Err(system_error("too_many_enrolments", "too many agents enrol at once")
                .retryable()
                .action("run it again in a moment, with the same token")
                .into_status(Code::ResourceExhausted));
        };
        let request = request.into_inner();
        if !is_machine_name(&request.machine_name) {
            return Err(invalid(
                "invalid_machine_name",
                "a machine's name is 1 to 253 of [A-Za-z0-9._-], does not start with - or ., and is no UUID",
            ));
        }
        if request.token.len() > MAX_TOKEN_BYTES {
            return Err(user_error(
                "token_refused",
                "what was given as the enrolment token is longer than any token",
            )
            .action("give the token alone, as `holdfast token create --to FILE` writes it to a file")
            .into_status(Code::Unauthenticated));
        }
        if request.os.len() > 256 || request.agent_version.len() > 256 {
            return Err(invalid("invalid_argument", "os and agent_version have at most 256 bytes"));
        }
        let (token_sha256, key) = (sha256(request.token.as_bytes()), requested_key(&request.csr_der)?);
        let agent = agent_of(&token_sha256, &key, &request.machine_name);
        let certificate = self.sign(&key, agent)?;
        let new = NewAgent {
            token_sha256,
            agent,
            machine: MachineId::generate(),
            machine_name: request.machine_name,
            os: request.os,
            version: request.agent_version,
            serial: certificate.serial,
            not_after: certificate.not_after,
        };
        let name = new.machine_name.clone();
        let machine = self.app.store.enrol(new).await?;
        for old in self.app.sessions.of_machine(machine).iter().filter(|live| live.agent != agent) {
            old.close(revoked(old.agent));
        }
        info!(%agent, %machine, name, "agent enrolled");
        Ok(Response::new(EnrollResponse {
            agent_id: agent.to_string(),
            machine_id: machine.to_string(),
            certificate_chain_pem: certificate.chain_pem,
            ca_pem: self.app.ca.certificate_pem().to_owned(),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let agent = caller::agent(&request)?;
        let certificate = self.sign(&requested_key(&request.get_ref().csr_der)?, agent)?;
        self.app.store.add_certificate(agent, certificate.serial.clone(), certificate.not_after).await?;
        info!(%agent, serial = certificate.serial, "certificate renewed");
        Ok(Response::new(RenewCertificateResponse {
            certificate_chain_pem: certificate.chain_pem,
            ca_pem: self.app.ca.certificate_pem().to_owned(),
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let agent = caller::agent(&request)?;
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        let span = info_span!("session", %agent);
        let task = session::run(Arc::clone(&self.app), agent, request.into_inner(), sender).instrument(span);
        self.app.tracker.spawn(task);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
