use std::fmt;

use tonic::codegen::http::Request;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use x509_parser::extensions::GeneralName;

use holdfast_gateway::AgentIdentity;
use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::AgentId;

use super::{Credentials, Gate};
use crate::pki::AGENT_URI;

/// The one method for callers without a certificate.
const ENROLL: &str = "/holdfast.v1.AgentService/Enroll";

/// Admits agents that are enrolled and not revoked, by their certificate, and anybody to enrolment.
pub(crate) struct AgentGate<C>(pub(crate) C);

impl<C> fmt::Debug for AgentGate<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentGate")
    }
}

#[tonic::async_trait]
impl<C: Credentials> Gate for AgentGate<C> {
    async fn admit(&self, request: &mut Request<()>) -> Result<(), Status> {
        if request.uri().path() == ENROLL {
            return Ok(());
        }
        // The handshake has checked that the certificate is the controller's own and in date.
        let certificates = request
            .extensions()
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(TlsConnectInfo::peer_certs)
            .ok_or_else(no_certificate)?;
        let leaf = certificates.first().ok_or_else(no_certificate)?;
        let (agent, serial) = read_certificate(leaf).ok_or_else(foreign_certificate)?;
        if !self.0.agent_is_active(agent, &serial).await? {
            return Err(revoked(agent));
        }
        request.extensions_mut().insert(AgentIdentity(agent));
        Ok(())
    }
}

/// Reads whose certificate it is (it has exactly one name, and that an agent's), and its serial number in hex.
fn read_certificate(der: &[u8]) -> Option<(AgentId, String)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return None;
    };
    let agent = uri.strip_prefix(AGENT_URI)?.parse().ok()?;
    Some((agent, hex::encode(certificate.raw_serial())))
}

fn no_certificate() -> Status {
    user_error("no_certificate", "this call needs the certificate of an enrolled agent")
        .action("enrol the agent first: `holdfast-agent enrol`")
        .into_status(Code::Unauthenticated)
}

fn foreign_certificate() -> Status {
    user_error("no_agent_certificate", "the client certificate is not that of an agent")
        .action("enrol the agent again: `holdfast-agent enrol`")
        .into_status(Code::Unauthenticated)
}

pub(crate) fn revoked(agent: AgentId) -> Status {
    user_error("agent_revoked", format!("agent {agent} is not enrolled here: its machine was removed, another agent took its place, or the database is older than its certificate"))
        .action(
            "enrol the agent again with a new token: `holdfast token create`, with `--machine NAME` if `holdfast machine list` \
             shows the machine, then `holdfast-agent enrol --force`",
        )
        .into_status(Code::PermissionDenied)
}
