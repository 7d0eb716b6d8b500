//! The running agent: everything wired together, from the state directory to the last acknowledged report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::dial::Dialer;
use crate::disk::{self, Inventory};
use crate::hooks::Hooks;
use crate::identity::{Identity, IdentityError};
use crate::outbox::Outbox;
use crate::renew::Renewal;
use crate::runner::Runner;
use crate::session::Session;
use crate::snapshot::Snapshots;
use crate::snapshot::journal::Journals;
use crate::snapshot::recover::recover;
use crate::spool::{Spool, SpoolError};
use crate::state_dir::{StateDir, StateDirError};
use crate::step::Steps;
use crate::tls::{ClientTls, TlsError};
use crate::transfer::disk_place::DiskPlaces;
use crate::transfer::map_store::MapStore;

/// How long attempts may take to stop after a signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the state directory cannot be used")]
    StateDir(#[from] StateDirError),
    #[error("this machine is not enrolled: {} is missing", path.display())]
    NotEnrolled { path: PathBuf },
    #[error("the identity cannot be used")]
    Identity(#[from] IdentityError),
    #[error("the identity cannot be used for TLS")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("cannot read the machine's boot id")]
    BootId(#[source] std::io::Error),
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

impl StartError {
    /// What a person can do, if it is known here.
    pub(crate) fn action(&self) -> Option<&'static str> {
        match self {
            Self::NotEnrolled { .. } => Some(
                "enrol it: `holdfast token create`, on an operator's machine, prints a token and the command that uses it here",
            ),
            Self::Identity(_) | Self::Tls(_) => Some(
                "enrol it anew: `holdfast token create --machine NAME`, on an operator's machine, prints a token and the command that uses \
                 it here",
            ),
            Self::StateDir(_) | Self::Spool(_) | Self::BootId(_) | Self::Signals(_) => None,
        }
    }
}

/// Runs the agent until SIGTERM or SIGINT. SIGHUP reads the disks of the configuration again.
///
/// # Errors
/// Only at start.
pub(crate) async fn run(config: Config, config_path: &Path) -> Result<(), StartError> {
    let mut hangup = listen(SignalKind::hangup())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    let identity = match Identity::load(&state) {
        Err(IdentityError::Missing { path }) => return Err(StartError::NotEnrolled { path }),
        identity => identity?,
    };
    tracing::info!(
        machine = identity.record.machine_name,
        agent = identity.record.agent_id,
        version = env!("CARGO_PKG_VERSION"),
        "agent starts"
    );
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (session, runner) = assemble(config, &state, identity, &stop, &tasks)?;
    let running = session.run(&stop);
    tokio::pin!(running);
    loop {
        tokio::select! {
            () = &mut running => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(config_path, &session),
        }
    }
    tracing::info!("agent stops");
    stop.cancel();
    tasks.close();
    let ends = async { tokio::join!(running, runner.shut_down(), tasks.wait()) };
    if tokio::time::timeout(STOP_TIMEOUT, ends).await.is_err() {
        tracing::warn!("some attempts did not stop in time");
    }
    Ok(())
}

pub(crate) fn assemble(
    config: Config,
    state: &Arc<StateDir>,
    identity: Identity,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(Session, Arc<Runner>), StartError> {
    let config = Arc::new(config);
    // Before anything else: something may be frozen.
    let snapshots = Arc::new(Snapshots::new(Journals::new(state.snapshots())));
    recover(&snapshots, disk::configured(&config));
    let tls = Arc::new(ClientTls::new(&identity)?);
    let dialer = Dialer::new(Arc::clone(&tls), config.timing.clone());
    let spool = Arc::new(Spool::open(&state.spool())?);
    let maps = Arc::new(MapStore::new(&state.maps()));
    maps.clear_pending();
    let outbox = Arc::new(Outbox::new(Arc::clone(&spool)));
    let inventory = Arc::new(Inventory::new(&config));
    let hooks = Hooks::new(config.hooks.clone(), identity.record.machine_name.clone(), state.snapshots());
    tasks.spawn(hooks.clone().keep_awake(stop.clone()));
    let steps = Arc::new(Steps {
        config: Arc::clone(&config),
        inventory: Arc::clone(&inventory),
        snapshots: Arc::clone(&snapshots),
        hooks,
        dialer: dialer.clone(),
        maps,
        places: DiskPlaces::default(),
    });
    let runner = Arc::new(Runner::new(steps, Arc::clone(&outbox), Arc::clone(&spool)));
    let (live_sender, live) = watch::channel(None);
    let renewal = Renewal { state: Arc::clone(state), tls, live, call_timeout: config.timing.call_timeout };
    tasks.spawn(renewal.run(identity, stop.clone()));
    tasks.spawn(Arc::clone(&snapshots).watch(stop.clone()));
    let session = Session {
        config,
        dialer,
        inventory,
        snapshots,
        runner: Arc::clone(&runner),
        outbox,
        spool,
        boot_id: boot_id().map_err(StartError::BootId)?,
        live: live_sender,
        reloaded: Notify::new(),
    };
    Ok((session, runner))
}

fn reload(path: &Path, session: &Session) {
    match Config::load(path) {
        Ok(config) => {
            session.inventory.reload(&config);
            session.reloaded.notify_one();
            let unchanged = Config {
                disks: config.disks.clone(),
                discover: config.discover,
                ..(*session.config).clone()
            };
            if config == unchanged {
                tracing::info!("the disks of the configuration were read again");
            } else {
                tracing::warn!("the disks of the configuration were read again; the rest needs a restart");
            }
        }
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::error!(
                "the configuration was not read again, what was read before holds: {}",
                error.trim_end()
            );
        }
    }
}

fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn listen(kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(StartError::Signals)
}

#[cfg(test)]
mod tests;
