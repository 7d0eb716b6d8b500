//! The data service: what agents send goes into the vault, what operators restore comes out of it. A library without SQL:
//! who may do what, and what the catalogue says, it asks an [`Authority`].

mod authority;
mod collect;
mod commit;
mod damage;
mod enforce;
mod error;
mod learn;
mod metrics;
mod open;
mod point;
mod rebuild;
mod resolve;
mod restore;
mod retry;
mod run;
mod scrub;
mod send;
mod transfer_api;
mod transfers;
mod verify;
mod wire;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use uuid::Uuid;

use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::error::{ErrorDetail, ErrorDetailExt as _, detail_of, system_error};
use holdfast_proto::v1::restore_service_server::RestoreServiceServer;
use holdfast_proto::v1::transfer_service_server::TransferServiceServer;
use holdfast_vault_engine::{SegmentId, Vault};

pub use authority::{
    AgentIdentity, Authority, CataloguedPoint, CommitBegun, Decided, FoundMachine, KeptPoint,
    OperatorIdentity, PointLocation, Role, TransferGrant, UnsettledCommit, Verified,
};
pub use collect::{CollectMode, CollectOrder};
pub use point::Decision;
pub use rebuild::Rebuilt;
pub use restore::RestoreApi;
pub use scrub::Scrub;
pub use transfer_api::TransferApi;
pub use verify::VerifyTarget;

use transfers::Transfers;

/// Whoever asks for the state of everything does not wait for one file system.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// Limits and periods of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct GatewayConfig {
    /// How often open ends are looked for.
    pub resolve_period: Duration,
    /// A transfer that nobody called for so long is looked at: it is forgotten if its attempt is over. What is durable
    /// stays.
    pub idle_timeout: Duration,
    /// Transfers at once; each holds up to some 130 MiB while its agent sends faster than the vault stores.
    pub max_transfers: usize,
    /// Restores at once; each holds up to some 60 MiB, if the disk is scattered over its segments.
    pub max_restores: usize,
    /// How long an operator may leave a frame unread.
    pub read_timeout: Duration,
    /// How long a deleted point can be taken back, at least.
    pub delete_window: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            resolve_period: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(15 * 60),
            max_transfers: 64,
            max_restores: 8,
            read_timeout: Duration::from_secs(600),
            delete_window: Duration::from_secs(14 * 24 * 3600),
        }
    }
}

/// A gateway to one vault. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    vault: Vault,
    authority: Arc<dyn Authority>,
    config: GatewayConfig,
    transfers: Transfers,
    restores: Arc<Semaphore>,
    /// What must come to its end before the process stops.
    tasks: TaskTracker,
    stopping: CancellationToken,
    collecting: Mutex<()>,
    verifying: Mutex<()>,
    spreading: Mutex<()>,
    /// How often damage was found.
    damages: AtomicU64,
    /// Machines of the vault that the catalogue was found not to know.
    strangers: std::sync::Mutex<HashSet<Uuid>>,
    /// Segments of which it is being looked who needs what is damaged.
    spread: std::sync::Mutex<HashSet<SegmentId>>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("vault", &self.inner.vault).finish_non_exhaustive()
    }
}

impl Gateway {
    #[must_use]
    pub fn new(vault: Vault, authority: Arc<dyn Authority>, config: GatewayConfig) -> Self {
        let inner = Inner {
            vault,
            authority,
            config,
            transfers: Transfers::default(),
            restores: Arc::new(Semaphore::new(config.max_restores)),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            collecting: Mutex::new(()),
            verifying: Mutex::new(()),
            spreading: Mutex::new(()),
            damages: AtomicU64::new(0),
            strangers: std::sync::Mutex::default(),
            spread: std::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// For the agents' listener.
    #[must_use]
    pub fn transfer_service(&self) -> TransferServiceServer<TransferApi> {
        TransferServiceServer::new(TransferApi(self.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// For the operators' listener.
    #[must_use]
    pub fn restore_service(&self) -> RestoreServiceServer<RestoreApi> {
        RestoreServiceServer::new(RestoreApi(self.clone())).max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Bytes that the vault's file system has left, if it has one that answers.
    pub async fn vault_free_bytes(&self) -> Option<u64> {
        tokio::time::timeout(LOOK_LIMIT, self.inner.vault.free_bytes()).await.ok()?.ok()?
    }

    /// What stands against the vault now, as far as a look at its folder tells.
    pub async fn vault_error(&self) -> Option<ErrorDetail> {
        match tokio::time::timeout(LOOK_LIMIT, self.inner.vault.check_mounted()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(detail_of(&error::status_of(&error))),
            Err(_) => Some(
                system_error(
                    "vault_unavailable",
                    format!("the vault's storage did not answer within {LOOK_LIMIT:?}"),
                )
                .retryable()
                .action("see whether its file system answers; a network file system may hang"),
            ),
        }
    }
}

/// Tells why a stream ends, unless nobody reads that in time: whoever hangs must not keep its place.
pub(crate) async fn say_why<T>(to: &mpsc::Sender<Result<T, Status>>, why: Status, patience: Duration) {
    let _ = to.send_timeout(Err(why), patience).await;
}

/// A place where the fault tests end the process, or hold it for up to a minute while a file is there, beside which another one says
/// that it is held; nothing in a build without the feature `failpoints`.
pub(crate) fn crash_point(name: &'static str) {
    fail::fail_point!(name, |held_by: Option<String>| match held_by {
        Some(file) => {
            let _ = std::fs::write(format!("{file}.reached"), "");
            for _ in (0..6000).take_while(|_| std::path::Path::new(&file).try_exists().unwrap_or(false)) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        None => std::process::abort(),
    });
    let _ = name;
}
