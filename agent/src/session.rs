//! The control stream: one at a time, made again for as long as the agent runs.

mod link;
mod welcome;

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::error::detail_of;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::dial::{DialError, Dialer, Purpose, is_certificate_of_another_time};
use crate::disk::Inventory;
use crate::outbox::Outbox;
use crate::runner::Runner;
use crate::snapshot::Snapshots;
use crate::spool::Spool;
use link::Link;

/// What the session tells of, and acts on.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) config: Arc<Config>,
    pub(crate) dialer: Dialer,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) spool: Arc<Spool>,
    /// Random per boot of the machine.
    pub(crate) boot_id: String,
    /// The connection of the session, while it is welcome.
    pub(crate) live: watch::Sender<Option<Channel>>,
    /// The configuration names other disks now.
    pub(crate) reloaded: Notify,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the controller did not {what} in time")]
    Timeout { what: &'static str },
    #[error("{}", describe(.0))]
    Ended(Box<Status>),
    #[error("the controller closed the session")]
    Closed,
    #[error("the controller's first answer is no Welcome")]
    NoWelcome,
    #[error("the disks of this machine cannot be listed")]
    Disks,
    #[error("snapshots of an earlier process were found late, of which the controller has to hear")]
    LateSnapshots,
}

impl From<Status> for SessionError {
    fn from(status: Status) -> Self {
        Self::Ended(Box::new(status))
    }
}

impl Session {
    /// Keeps a session until told to stop.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let timing = &self.config.timing;
        let mut backoff = Backoff::new(timing.reconnect_min, timing.reconnect_max);
        while !stop.is_cancelled() {
            let Some(ended) = stop.run_until_cancelled(Box::pin(self.once(&mut backoff))).await else {
                break;
            };
            self.live.send_replace(None);
            if ended.is_for_good() {
                self.let_go();
            }
            let wait = backoff.next_wait();
            self.log_end(&ended, wait);
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
        }
        self.live.send_replace(None);
    }

    /// One session, from the connection to its end.
    async fn once(&self, backoff: &mut Backoff) -> SessionError {
        let channel = match self.dialer.connect(&self.config.controller.0, Purpose::Control).await {
            Ok(channel) => channel,
            Err(error) => return error.into(),
        };
        let mut link = match Link::open(self, channel.clone()).await {
            Ok(link) => link,
            Err(error) => return error,
        };
        tracing::info!(controller = %self.config.controller.0, "connected");
        self.live.send_replace(Some(channel));
        let welcome = Instant::now();
        let ended = link.run().await;
        // A controller that welcomes and then ends every session is none that all agents may try at once again and again.
        if welcome.elapsed() >= self.config.timing.reconnect_max {
            backoff.reset();
        }
        ended
    }

    /// Nobody wants what this agent does and holds, and nobody else will tell it so: clones on file systems in use would grow for ever.
    fn let_go(&self) {
        self.runner.abandon_all();
        for id in self.snapshots.ids() {
            // In the background; it is not listed any more.
            self.snapshots.release(id);
        }
    }

    fn log_end(&self, ended: &SessionError, wait: Duration) {
        let (error, next, wait_ms) = (crate::error::chain(ended), ended.action(), wait.as_millis());
        let refused = matches!(
            ended,
            SessionError::Ended(status)
                if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
        );
        if refused {
            tracing::error!(
                error,
                wait_ms,
                "the controller refuses this agent; an operator has to look at it"
            );
        } else {
            tracing::warn!(error, next, wait_ms, "not connected; trying again after a wait");
        }
    }
}

impl SessionError {
    /// Whether no session of this agent will be welcome again, as far as the controller knows. Where its database was put back, an agent that
    /// is let in later has lost a snapshot by that, and the job takes another one.
    fn is_for_good(&self) -> bool {
        matches!(self, Self::Ended(status) if detail_of(status).code == REVOKED)
    }

    /// What a person can do, if it is known here.
    fn action(&self) -> Option<&'static str> {
        match self {
            Self::Dial(error) => error.action(),
            Self::Ended(status) => std::error::Error::source(&**status)
                .is_some_and(is_certificate_of_another_time)
                .then_some(COMPARE_OR_ENROL),
            Self::Timeout { .. } | Self::Closed | Self::NoWelcome | Self::Disks | Self::LateSnapshots => None,
        }
    }
}

/// The controller's word for an agent whose machine was removed, or in whose place another one is.
const REVOKED: &str = "agent_revoked";

const COMPARE_OR_ENROL: &str = "compare `date -u` here and on the controller, and set the clock that is wrong; if both are right, the certificate ran out: an \
     operator makes a token with `holdfast token create --machine NAME`, which prints the command that uses it here";

fn describe(status: &Status) -> String {
    let detail = detail_of(status);
    match std::error::Error::source(status) {
        Some(cause) if is_certificate_of_another_time(cause) => {
            "the controller refuses this machine's certificate: by the controller's clock it is not valid yet, or has expired"
                .to_owned()
        }
        // Broken connections have a cause on this side, and only that says something.
        Some(cause) => format!("the connection to the controller was lost: {}", crate::error::chain(cause)),
        None if detail.message.is_empty() => format!("the controller ended the session: {}", detail.code),
        None if detail.action.is_empty() => format!("the controller ended the session: {}", detail.message),
        None => format!("the controller ended the session: {}; {}", detail.message, detail.action),
    }
}

#[cfg(test)]
mod tests;
