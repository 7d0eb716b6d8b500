use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use holdfast_gateway::Gateway;
use holdfast_proto::v1::agent_service_server::AgentServiceServer;
use holdfast_proto::v1::job_service_server::{self, JobServiceServer};
use holdfast_proto::v1::machine_service_server::{self, MachineServiceServer};
use holdfast_proto::v1::point_service_server::{self, PointServiceServer};
use holdfast_proto::v1::policy_service_server::{self, PolicyServiceServer};
use holdfast_proto::v1::restore_service_server;
use holdfast_proto::v1::status_service_server::{self, StatusServiceServer};
use holdfast_proto::v1::vault_service_server::{self, VaultServiceServer};
use holdfast_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};

use super::{ServeError, pki};
use crate::api::agent::AgentApi;
use crate::api::job::JobApi;
use crate::api::machine::MachineApi;
use crate::api::point::PointApi;
use crate::api::policy::PolicyApi;
use crate::api::status::StatusApi;
use crate::api::vault::VaultApi;
use crate::app::App;
use crate::identity::{AgentGate, GateLayer, OperatorGate};
use crate::listen::{Limits, Listener};
use crate::pki::{ServerIdentity, agents_tls, operators_tls};
use crate::telemetry::CountRequests;

/// Each agent has one session and a few transfers.
pub(super) const AGENT_LIMITS: Limits = Limits {
    connections: 65_536,
    handshakes: 1024,
    handshake_timeout: Duration::from_secs(10),
    // Without a certificate one can only enrol, and that takes a moment.
    stranger_lifetime: Some(Duration::from_secs(60)),
};
pub(super) const OPERATOR_LIMITS: Limits = Limits {
    connections: 4096,
    handshakes: 256,
    handshake_timeout: Duration::from_secs(10),
    stranger_lifetime: None,
};

/// A dead peer is noticed within twice this time.
const KEEPALIVE: Duration = Duration::from_secs(20);
const MAX_HEADER_BYTES: u32 = 16 << 10;
const STREAMS_PER_CONNECTION: u32 = 128;

/// What a transfer may have on its way; smaller windows would make a long line idle.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Pieces in which a transfer comes; HTTP/2's own limit of 16 KiB costs each of them a look at many.
const FRAME_BYTES: u32 = 256 << 10;

const OPERATORS: &str = "operators";
const AGENTS: &str = "agents";

/// What `grpc.health.v1` answers, for the controller as a whole and for each service that operators use.
#[derive(Debug)]
pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    pub(super) async fn new() -> (Self, HealthServer<HealthService>) {
        let reporter = HealthReporter::new();
        let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let health = Self { reporter };
        health.set(ServingStatus::Serving).await;
        (health, service)
    }

    /// Tells load balancers to send nobody here any more.
    pub(super) async fn leave(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for name in std::iter::once("").chain(operator_services()) {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

/// Serves operators until the application stops.
pub(super) fn operators(
    app: &Arc<App>,
    gateway: &Gateway,
    listener: Listener,
    identity: Arc<ServerIdentity>,
    health: HealthServer<HealthService>,
) -> Result<impl Future<Output = Result<(), ServeError>> + Send + 'static, ServeError> {
    let tls = operators_tls(identity).map_err(pki)?;
    let reflection = operator_services()
        .into_iter()
        .fold(tonic_reflection::server::Builder::configure(), |builder, name| builder.with_service_name(name))
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
        .build_v1()
        .map_err(|source| ServeError::Reflection { source })?;
    let descriptors =
        [FILE_DESCRIPTOR_SET, HEALTH_DESCRIPTORS, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
    let router = server()
        .layer(CountRequests::new(OPERATORS, &descriptors))
        .layer(GateLayer::new(OperatorGate::new(app.store.clone())))
        .add_service(health)
        .add_service(reflection)
        .add_service(
            MachineServiceServer::new(MachineApi(Arc::clone(app)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            JobServiceServer::new(JobApi(Arc::clone(app))).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            PointServiceServer::new(PointApi { app: Arc::clone(app), gateway: gateway.clone() })
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            PolicyServiceServer::new(PolicyApi(Arc::clone(app))).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            StatusServiceServer::new(StatusApi { app: Arc::clone(app), gateway: gateway.clone() })
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            VaultServiceServer::new(VaultApi { app: Arc::clone(app), gateway: gateway.clone() })
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(gateway.restore_service().max_decoding_message_size(MAX_MESSAGE_BYTES));
    let shutdown = app.shutdown.clone();
    Ok(async move {
        let connections = listener.accept(tls, shutdown.clone());
        router
            .serve_with_incoming_shutdown(connections, shutdown.cancelled_owned())
            .await
            .map_err(|source| ServeError::Server { name: OPERATORS, source })
    })
}

/// Serves agents until the application stops.
pub(super) fn agents(
    app: &Arc<App>,
    gateway: &Gateway,
    listener: Listener,
    identity: Arc<ServerIdentity>,
) -> Result<impl Future<Output = Result<(), ServeError>> + Send + 'static, ServeError> {
    let tls = agents_tls(&app.ca, identity).map_err(pki)?;
    let agents = AgentServiceServer::new(AgentApi::new(Arc::clone(app)));
    let router = server()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .layer(CountRequests::new(AGENTS, &[FILE_DESCRIPTOR_SET]))
        .layer(GateLayer::new(AgentGate(app.store.clone())))
        .add_service(agents.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(gateway.transfer_service().max_decoding_message_size(MAX_MESSAGE_BYTES));
    let shutdown = app.shutdown.clone();
    Ok(async move {
        let connections = listener.accept(tls, shutdown.clone());
        router
            .serve_with_incoming_shutdown(connections, shutdown.cancelled_owned())
            .await
            .map_err(|source| ServeError::Server { name: AGENTS, source })
    })
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
}

/// What operators see; the agents' services are not among it, although the descriptors know them.
fn operator_services() -> [&'static str; 8] {
    [
        machine_service_server::SERVICE_NAME,
        job_service_server::SERVICE_NAME,
        point_service_server::SERVICE_NAME,
        policy_service_server::SERVICE_NAME,
        status_service_server::SERVICE_NAME,
        restore_service_server::SERVICE_NAME,
        vault_service_server::SERVICE_NAME,
        health_server::SERVICE_NAME,
    ]
}
