//! A vault, a control plane and a gateway that can be restarted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

use holdfast_gateway::{AgentIdentity, Gateway, GatewayConfig, OperatorIdentity, Role};
use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::ids::{AgentId, MachineId, SnapshotId, StepId};
use holdfast_vault_engine::{DiskSpec, KeyFile, PointStatus, Samples, Storage, Vault};

use crate::agent::Agent;
use crate::authority::{ScriptedAuthority, Step};

pub(crate) struct Bed {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) vault: Vault,
    pub(crate) authority: Arc<ScriptedAuthority>,
    pub(crate) gateway: Gateway,
    pub(crate) config: GatewayConfig,
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(GatewayConfig::default()).await
    }

    pub(crate) async fn with(config: GatewayConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("vault")).unwrap();
        let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
        let vault =
            Vault::create(Storage::directory(&dir.path().join("vault")).unwrap(), &key).await.unwrap();
        let authority = Arc::new(ScriptedAuthority::default());
        let gateway = Gateway::new(vault.clone(), Arc::clone(&authority) as _, config);
        let (address, server) = serve(&gateway).await;
        Self { dir, vault, authority, gateway, config, address, server }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    /// The gateway's process dies and another one takes over: nothing in memory survives.
    pub(crate) async fn restart(&mut self) {
        self.server.abort();
        let key = KeyFile::load(&self.dir.path().join("vault.key")).unwrap();
        self.vault = Vault::open(Storage::directory(&self.root()).unwrap(), &key).await.unwrap();
        self.gateway = Gateway::new(self.vault.clone(), Arc::clone(&self.authority) as _, self.config);
        (self.address, self.server) = serve(&self.gateway).await;
    }

    /// What any machine has stored is not stored again.
    pub(crate) async fn deduplicate(&mut self, samples: Arc<Samples>) {
        self.server.abort();
        self.vault = self.vault.deduplicating(samples);
        self.gateway = Gateway::new(self.vault.clone(), Arc::clone(&self.authority) as _, self.config);
        (self.address, self.server) = serve(&self.gateway).await;
    }

    pub(crate) fn channel(&self) -> Channel {
        self.endpoint().connect_lazy()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
    }

    /// A machine with an agent, and the first attempt to transfer these disks of it.
    pub(crate) fn agent(&self, disks: &[(&str, &[u8])]) -> Agent {
        let (agent, machine) = (AgentId::generate(), MachineId::generate());
        self.next_backup(agent, machine, disks)
    }

    /// Another backup of an agent's machine.
    pub(crate) fn next(&self, agent: &Agent, disks: &[(&str, &[u8])]) -> Agent {
        self.next_backup(agent.id, agent.machine, disks)
    }

    fn next_backup(&self, agent: AgentId, machine: MachineId, disks: &[(&str, &[u8])]) -> Agent {
        let (step, snapshot) = (StepId::generate(), SnapshotId::generate());
        let disks: Vec<DiskSpec> = disks
            .iter()
            .map(|(name, image)| DiskSpec { name: (*name).to_owned(), size_bytes: image.len() as u64 })
            .collect();
        let row = Step {
            agent,
            machine,
            attempt: 1,
            snapshot,
            disks: disks.clone(),
            cancelled: false,
            running: true,
            committing: None,
        };
        self.authority.script().steps.insert(step, row);
        Agent::new(self.channel(), agent, machine, (step, 1), snapshot, disks)
    }

    /// How many points of a machine the vault holds.
    pub(crate) async fn points(&self, machine: MachineId) -> usize {
        let points = self.vault.points(machine.0).await.unwrap();
        assert!(points.iter().all(|point| matches!(point, PointStatus::Ok(_))));
        points.len()
    }
}

/// Identities come from headers here; whoever serves the gateway takes them from certificates and keys.
#[allow(clippy::result_large_err)]
fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    let header = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (agent, operator) = (header("test-agent"), header("test-operator"));
    if let Some(agent) = agent {
        request.extensions_mut().insert(AgentIdentity(agent.parse().unwrap()));
    }
    if let Some(role) = operator {
        let role = if role == "admin" { Role::Admin } else { Role::Viewer };
        request.extensions_mut().insert(OperatorIdentity { name: "alice".to_owned(), role });
    }
    Ok(request)
}

async fn serve(gateway: &Gateway) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let transfer = gateway.transfer_service().max_decoding_message_size(MAX_MESSAGE_BYTES);
    let router = Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .add_service(InterceptedService::new(transfer, identify))
        .add_service(InterceptedService::new(gateway.restore_service(), identify));
    let server = tokio::spawn(async move {
        router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    (address, server)
}

/// Waits until something is so; fails after a while.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not so after a while: {what}");
}
