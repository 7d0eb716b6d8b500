//! Enrolment: a token is exchanged for an identity, once per machine.

use std::path::PathBuf;

use chrono::Utc;
use holdfast_proto::error::detail_of;
use holdfast_proto::v1::EnrollRequest;
use holdfast_proto::v1::agent_service_client::AgentServiceClient;

use crate::config::Config;
use crate::crash_point::crash_point;
use crate::dial::{self, DialError, Purpose};
use crate::identity::{self, AgentRecord, Identity, IdentityError, KeyRequest};
use crate::state_dir::StateDir;
use crate::tls::{self, FirstTrust, TlsError};

/// What the operator gave for the first contact.
#[derive(Debug)]
pub(crate) struct Enrolment {
    pub(crate) token: String,
    pub(crate) trust: FirstTrust,
    /// `None`: the host name.
    pub(crate) machine_name: Option<String>,
    pub(crate) existing: Existing,
}

/// What to do with an identity that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Keep,
    Replace,
}

/// Why this machine was not enrolled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error("this machine is enrolled already as {machine} (agent {agent})")]
    AlreadyEnrolled { machine: String, agent: String },
    #[error("an identity is there but cannot be used")]
    ExistingUnusable(#[source] IdentityError),
    #[error("there is no name for this machine")]
    NoName { source: std::io::Error },
    #[error("no key can be kept for the enrolment")]
    Key(#[source] IdentityError),
    #[error(transparent)]
    Dial(DialError),
    #[error("cannot use the CA")]
    Ca(#[from] TlsError),
    #[error("the controller did not answer in time")]
    Timeout,
    #[error("the controller refused: {message} ({code})")]
    Refused { message: String, code: String, action: String },
    #[error("the controller answered with another CA than the one that it was checked by")]
    OtherCa,
    #[error("the new identity could not be kept")]
    Identity(#[from] IdentityError),
    #[error("{} must hold the token alone, and {found}", path.display())]
    NotAToken { path: PathBuf, found: &'static str },
    #[error("cannot read {}", path.display())]
    ReadFile { path: PathBuf, source: std::io::Error },
}

impl EnrolError {
    /// What a person can do, if it is known here.
    pub(crate) fn action(&self) -> Option<String> {
        let action = match self {
            Self::AlreadyEnrolled { .. } => {
                "start it with `holdfast-agent run`, or give --force to replace its identity"
            }
            Self::ExistingUnusable(_) => "give --force to replace it",
            Self::NoName { .. } => "give --name",
            Self::Dial(error) => return Some(error.action().unwrap_or_else(|| compare(error)).to_owned()),
            Self::Refused { action, .. } if !action.is_empty() => action.as_str(),
            Self::OtherCa => "compare --ca-file or --ca-fingerprint with the controller's pki/ca.pem",
            Self::NotAToken { .. } => {
                "make the file with `holdfast token create --to FILE`, and copy it here as it is"
            }
            Self::ReadFile { .. } => "check the path and its permissions",
            Self::Key(_) => {
                "see that `state_dir` in agent.toml can be written to and has room, and run it again"
            }
            Self::Ca(_) => "give the controller's pki/ca.pem, as it is, with --ca-file",
            Self::Timeout => "run it again with the same token; if it stays so, look at the controller's log",
            Self::Identity(_) => {
                "see that `state_dir` in agent.toml can be written to and has room, and run it again with the same token: the key is kept"
            }
            Self::Refused { .. } => return None,
        };
        Some(action.to_owned())
    }
}

/// What of the first contact is to be compared.
fn compare(error: &DialError) -> &'static str {
    let error = crate::error::chain(error);
    if error.contains(tls::OTHER_FINGERPRINT) {
        "compare --ca-fingerprint with what `holdfast token create` prints; if they are the same, something else answers at this address"
    } else if error.contains("UnknownIssuer") || error.contains("BadSignature") {
        "--ca-file is not the CA of this controller: copy its pki/ca.pem"
    } else if error.contains("not valid for name") {
        "`controller` in agent.toml must be a name or address that the controller was started with (its `host`)"
    } else {
        "check `controller` in agent.toml, that the controller runs, and that its port for agents can be reached from here"
    }
}

/// Exchanges the token for an identity and puts it in the state directory.
///
/// # Errors
/// The identity on disk is as it was then. The key of a lost answer is kept: the same token may be used for it again.
pub(crate) async fn enrol(
    config: &Config,
    state: &StateDir,
    enrolment: Enrolment,
) -> Result<AgentRecord, EnrolError> {
    if enrolment.existing == Existing::Keep {
        match Identity::load(state) {
            Ok(identity) => {
                return Err(EnrolError::AlreadyEnrolled {
                    machine: identity.record.machine_name,
                    agent: identity.record.agent_id,
                });
            }
            Err(IdentityError::Missing { .. }) => {}
            Err(error) => return Err(EnrolError::ExistingUnusable(error)),
        }
    }
    let machine_name = match enrolment.machine_name {
        Some(name) => name,
        None => host_name().map_err(|source| EnrolError::NoName { source })?,
    };
    let request = KeyRequest::for_enrolment(state).map_err(EnrolError::Key)?;
    let first_tls = tls::first_contact(&enrolment.trust)?;
    let controller = &config.controller.0;
    let channel = dial::connect(controller, Purpose::Control, &config.timing, move || first_tls.clone())
        .await
        .map_err(EnrolError::Dial)?;
    let call = EnrollRequest {
        token: enrolment.token,
        csr_der: request.csr_der,
        machine_name: machine_name.clone(),
        os: operating_system(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer = tokio::time::timeout(config.timing.call_timeout, async {
        AgentServiceClient::new(channel).enroll(call).await
    })
    .await
    .map_err(|_| EnrolError::Timeout)?
    .map_err(|status| {
        let detail = detail_of(&status);
        let action = match detail.code.as_str() {
            "no_api_key" => "this is its port for operators: `controller` in agent.toml must name the one for agents (7443 \
                             unless configured otherwise)"
                .to_owned(),
            _ => detail.action,
        };
        EnrolError::Refused { message: detail.message, code: detail.code, action }
    })?
    .into_inner();
    crash_point("agent::enrolled");
    check_ca(&enrolment.trust, &answer.ca_pem)?;
    let identity = Identity {
        record: AgentRecord {
            agent_id: answer.agent_id,
            machine_id: answer.machine_id,
            machine_name,
            certified_at: Utc::now(),
        },
        key_pem: request.key_pem,
        chain_pem: answer.certificate_chain_pem,
        ca_pem: answer.ca_pem,
    };
    identity.store(state)?;
    identity::forget_enrolment_key(state);
    Ok(identity.record)
}

/// The CA to pin must be one that the operator vouched for.
fn check_ca(trust: &FirstTrust, answered_pem: &str) -> Result<(), EnrolError> {
    let answered = tls::fingerprints(answered_pem)?;
    let vouched = match trust {
        FirstTrust::CaPem(pem) => tls::fingerprints(pem)?,
        FirstTrust::Fingerprint(fingerprint) => vec![*fingerprint],
    };
    if answered.iter().all(|fingerprint| vouched.contains(fingerprint)) {
        Ok(())
    } else {
        Err(EnrolError::OtherCa)
    }
}

fn host_name() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned())
}

/// The distribution and the kernel, for people.
fn operating_system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |name| name.trim_matches('"'));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = format!("{name} {}", kernel.trim());
    let end = (0..=text.len().min(256)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
