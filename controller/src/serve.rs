//! `serve`: opens what the controller needs, in an order in which the first thing that is missing is named, serves, and
//! stops in good order.

mod addresses;
mod database;
mod keep;
mod limits;
mod servers;
mod stop;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use holdfast_gateway::{Gateway, GatewayConfig};
use holdfast_vault_engine::{KeyFile, Vault, VaultError};

use crate::app::App;
use crate::authority::StoreAuthority;
use crate::config::{Folders, ServeConfig, VaultPlace};
use crate::listen::Listener;
use crate::pki::{Ca, PkiError, ServerIdentity};
use crate::store::{Store, StoreError};
use crate::tasks;
use crate::telemetry::{Exporter, ExporterError};

use addresses::Addresses;
use keep::keep;
use servers::{AGENT_LIMITS, Health, OPERATOR_LIMITS};
use stop::StopSignals;

/// How long sessions, transfers and calls have to end by themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Why the controller cannot serve. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the certificates cannot be used")]
    Pki { source: PkiError },
    #[error("the vault's key {} cannot be used", path.display())]
    Key { path: PathBuf, source: VaultError },
    #[error("the vault in {place} cannot be opened")]
    Vault { place: VaultPlace, source: VaultError },
    #[error("the database cannot be opened")]
    Database { source: StoreError },
    #[error("cannot listen on {address} for {name}")]
    Bind { name: &'static str, address: SocketAddr, source: io::Error },
    #[error("metrics cannot be served")]
    Metrics { source: ExporterError },
    #[error("cannot write {}", path.display())]
    Addresses { path: PathBuf, source: io::Error },
    #[error("cannot wait for signals")]
    Signals { source: io::Error },
    #[error("gRPC reflection cannot be set up")]
    Reflection { source: tonic_reflection::server::Error },
    #[error("the server for {name} failed")]
    Server { name: &'static str, source: tonic::transport::Error },
    #[error("a server ended unasked")]
    Ended,
    #[error("a server did not run to its end")]
    Task { source: tokio::task::JoinError },
}

impl ServeError {
    pub(crate) fn next_step(&self) -> Option<String> {
        match self {
            Self::Pki { source } => source.next_step(),
            Self::Key { source: VaultError::ExposedKeyFile { path, .. }, .. } => {
                Some(format!("run `chmod 600 {path}`"))
            }
            Self::Key { .. } => Some(
                "put the vault's key back from your copy; only for a first installation, run `holdfast-controller init` \
                 with the same --data-dir"
                    .to_owned(),
            ),
            Self::Vault { source: VaultError::WrongKey { .. }, .. } => {
                Some("put the key of this vault back from your copy, or check --vault".to_owned())
            }
            Self::Vault { source, .. } if source.next_step().is_some() => source.next_step().map(str::to_owned),
            Self::Vault { source: VaultError::ExposedKeyFile { path, .. }, .. } => {
                Some(format!("run `chmod 600 {path}`"))
            }
            Self::Vault { place: VaultPlace::S3(_), .. } => Some(
                "check url and endpoint in [vault]; only for a first installation, run `holdfast-controller init`".to_owned(),
            ),
            Self::Vault { .. } => Some(
                "if its file system is not mounted, mount it; check --vault; only for a first installation, run \
                 `holdfast-controller init`"
                    .to_owned(),
            ),
            Self::Database { source: StoreError::Connect { .. } } => {
                Some("check the database URL and that the database runs and lets this user in".to_owned())
            }
            Self::Database { source: StoreError::Refused { .. } } => {
                Some("correct user, password or database in the URL, or let this user in".to_owned())
            }
            Self::Database { source: StoreError::Url { .. } } => {
                Some("write the URL like postgres://user@host/holdfast".to_owned())
            }
            Self::Database { .. } => {
                Some("the user needs the right to create tables in this database, of Postgres 14 or later".to_owned())
            }
            Self::Bind { source, .. } | Self::Metrics { source: ExporterError::Bind { source, .. } } => {
                Some(match source.kind() {
                    io::ErrorKind::AddrInUse => "stop what listens there, or choose another address".to_owned(),
                    io::ErrorKind::PermissionDenied => "choose a port above 1023".to_owned(),
                    _ => "choose an address of this machine".to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(config: ServeConfig) -> Result<(), ServeError> {
    let addresses_path = config.folders.addresses();
    // What an earlier process left there is not true any more.
    Addresses::remove(&addresses_path)
        .map_err(|source| ServeError::Addresses { path: addresses_path.clone(), source })?;
    limits::raise_open_files();
    let mut signals = StopSignals::listen().map_err(|source| ServeError::Signals { source })?;
    let exporter = match config.metrics {
        Some(address) => {
            Some(Exporter::bind(address).await.map_err(|source| ServeError::Metrics { source })?)
        }
        None => None,
    };
    let ca = Ca::load(&config.folders.pki()).map_err(pki)?;
    let identity = ServerIdentity::new(ca.clone(), &config.hosts).map_err(pki)?;
    let store = tokio::select! {
        store = database::connect(&config.database_url) => {
            store.map_err(|source| ServeError::Database { source })?
        }
        () = signals.stop() => return Ok(()),
    };
    let vault = config.limits.deduplicating(open_vault(&config.folders, store.clone()).await?);

    let resolve_period = config.timing.resolve;
    let app = App::new(store, ca, config.timing.clone(), config.limits, vault.id());
    let authority = Arc::new(StoreAuthority(Arc::clone(&app)));
    let gateway_config = GatewayConfig {
        resolve_period,
        max_transfers: config.limits.gateway_transfers(),
        delete_window: config.retention.window,
        ..GatewayConfig::default()
    };
    let gateway = Gateway::new(vault, authority, gateway_config);
    let operators = bind("operators", config.operators, OPERATOR_LIMITS)?;
    let agents = bind("agents", config.agents, AGENT_LIMITS)?;
    let addresses = Addresses {
        operators: operators.address(),
        agents: agents.address(),
        metrics: exporter.as_ref().map(Exporter::address),
    };

    let (health, health_service) = Health::new().await;
    let mut running = JoinSet::new();
    running.spawn(servers::operators(&app, &gateway, operators, Arc::clone(&identity), health_service)?);
    running.spawn(servers::agents(&app, &gateway, agents, Arc::clone(&identity))?);
    tasks::spawn(&app, &gateway, config.retention);
    let shutdown = app.shutdown.clone();
    app.tracker.spawn(keep("certificate", shutdown.clone(), {
        let shutdown = shutdown.clone();
        move || Arc::clone(&identity).keep_renewed(shutdown.clone())
    }));
    app.tracker.spawn(keep("samples", shutdown.clone(), {
        let (gateway, shutdown) = (gateway.clone(), shutdown.clone());
        move || gateway.clone().learn_samples(shutdown.clone())
    }));
    app.tracker.spawn(keep("gateway", shutdown.clone(), {
        let shutdown = shutdown.clone();
        move || gateway.clone().run(shutdown.clone())
    }));
    if let Some(exporter) = exporter.map(Arc::new) {
        let token = shutdown.clone();
        app.tracker.spawn(keep("metrics", shutdown, move || Arc::clone(&exporter).run(token.clone())));
    }
    addresses
        .write(&addresses_path)
        .map_err(|source| ServeError::Addresses { path: addresses_path, source })?;
    info!(operators = %addresses.operators, agents = %addresses.agents, metrics = ?addresses.metrics, vault = %app.vault_id,
        controller = %app.controller_id, version = env!("CARGO_PKG_VERSION"), "serving");

    let outcome = tokio::select! {
        () = signals.stop() => Ok(()),
        Some(ended) = running.join_next() => Err(match ended {
            Ok(Ok(())) => ServeError::Ended,
            Ok(Err(error)) => error,
            Err(source) => ServeError::Task { source },
        }),
    };
    info!("stopping");
    health.leave().await;
    app.shutdown.cancel();
    app.tracker.close();
    let everything = async {
        while running.join_next().await.is_some() {}
        app.tracker.wait().await;
    };
    tokio::select! {
        () = everything => info!("stopped"),
        () = tokio::time::sleep(STOP_DEADLINE) => warn!("stopped; some connections were cut"),
        () = signals.stop() => warn!("stopped at once, as asked"),
    }
    outcome
}

async fn open_vault(folders: &Folders, store: Store) -> Result<Vault, ServeError> {
    let path = folders.vault_key();
    let key = KeyFile::load(&path).map_err(|source| ServeError::Key { path, source })?;
    let vault_error = |source| ServeError::Vault { place: folders.vault.clone(), source };
    let objects = folders.vault.storage().map_err(vault_error)?;
    Vault::open(objects.with_arbiter(Arc::new(store)), &key).await.map_err(vault_error)
}

fn bind(
    name: &'static str,
    address: SocketAddr,
    limits: crate::listen::Limits,
) -> Result<Listener, ServeError> {
    Listener::bind(name, address, limits).map_err(|source| ServeError::Bind { name, address, source })
}

fn pki(source: PkiError) -> ServeError {
    ServeError::Pki { source }
}
