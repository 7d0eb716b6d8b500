//! One welcome session: heartbeats, dispatches, reports and their acknowledgements.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::ids::{SnapshotId, StepId};
use holdfast_proto::v1::agent_service_client::AgentServiceClient;
use holdfast_proto::v1::{
    AckResult, AgentMessage, ControllerMessage, Disk, DisksChanged, Dispatch, Heartbeat, Hello, Pong,
    ReportAck, Verdict, Welcome, agent_message, controller_message,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::welcome::heartbeat_interval;
use super::{Session, SessionError};
use crate::attempt::Attempt;
use crate::step::{Work, taken_snapshot};

/// Messages that wait for the connection. The controller reads fast; if it does not, the session ends.
const QUEUED_MESSAGES: usize = 64;
/// How long a terminal report may stay without acknowledgement on a living session before it is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(30);

/// A session after its Welcome.
pub(super) struct Link<'a> {
    session: &'a Session,
    outbound: mpsc::Sender<AgentMessage>,
    inbound: Streaming<ControllerMessage>,
    heartbeat_interval: Duration,
    disks: Vec<Disk>,
    /// When each terminal report was sent in this session.
    sent: HashMap<Attempt, Instant>,
}

impl<'a> Link<'a> {
    /// Says Hello and acts on the Welcome.
    pub(super) async fn open(session: &'a Session, channel: Channel) -> Result<Self, SessionError> {
        let call_timeout = session.config.timing.call_timeout;
        let disks = session.list_disks().await.ok_or(SessionError::Disks)?;
        let (outbound, queue) = mpsc::channel(QUEUED_MESSAGES);
        let hello = agent_message::Kind::Hello(session.hello(disks.clone()));
        send(&outbound, hello, call_timeout).await?;
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut inbound = tokio::time::timeout(call_timeout, client.session(ReceiverStream::new(queue)))
            .await
            .map_err(|_| SessionError::Timeout { what: "answer" })??
            .into_inner();
        let first = tokio::time::timeout(call_timeout, inbound.message())
            .await
            .map_err(|_| SessionError::Timeout { what: "welcome this agent" })??
            .ok_or(SessionError::Closed)?;
        let Some(controller_message::Kind::Welcome(welcome)) = first.kind else {
            return Err(SessionError::NoWelcome);
        };
        let heartbeat_interval = session.act_on(&welcome);
        Ok(Self { session, outbound, inbound, heartbeat_interval, disks, sent: HashMap::new() })
    }

    /// Runs until the session ends.
    pub(super) async fn run(&mut self) -> SessionError {
        let mut heartbeats = tokio::time::interval(self.heartbeat_interval);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let disk_poll = self.session.config.timing.disk_poll;
        let mut disk_polls = tokio::time::interval_at(Instant::now() + disk_poll, disk_poll);
        disk_polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the spool has from before this session.
        let mut result = self.send_reports().await;
        while result.is_ok() {
            result = tokio::select! {
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => self.receive(message).await,
                    Ok(None) => Err(SessionError::Closed),
                    Err(status) => Err(status.into()),
                },
                () = self.session.outbox.changed() => self.send_reports().await,
                _ = heartbeats.tick() => self.heartbeat().await,
                _ = disk_polls.tick() => self.send_disks().await,
                // Whoever named a disk does not wait for the next look.
                () = self.session.reloaded.notified() => self.send_disks().await,
                () = self.session.snapshots.late() => Err(SessionError::LateSnapshots),
            };
        }
        result.err().unwrap_or(SessionError::Closed)
    }

    async fn receive(&mut self, message: ControllerMessage) -> Result<(), SessionError> {
        match message.kind {
            Some(controller_message::Kind::Ping(ping)) => {
                self.send(agent_message::Kind::Pong(Pong { nonce: ping.nonce })).await?;
            }
            Some(controller_message::Kind::Dispatch(dispatch)) => self.dispatch(dispatch).await?,
            Some(controller_message::Kind::Cancel(cancel)) => {
                if let Some(attempt) = Attempt::from_wire(cancel.attempt.as_ref()) {
                    self.session.runner.cancel(attempt);
                }
            }
            Some(controller_message::Kind::Ack(ack)) => self.acknowledge(ack).await,
            Some(controller_message::Kind::Welcome(_)) | None => {
                tracing::warn!("the controller sent something unknown");
            }
        }
        Ok(())
    }

    async fn dispatch(&mut self, dispatch: Dispatch) -> Result<(), SessionError> {
        let Some(attempt) = Attempt::from_wire(dispatch.attempt.as_ref()) else {
            tracing::warn!("the controller dispatched something without a valid attempt");
            return Ok(());
        };
        if self.session.spool.holds(attempt) {
            // It has ended already, which the controller does not know yet.
            self.sent.remove(&attempt);
            return self.send_reports().await;
        }
        self.session.runner.dispatch(attempt, Work::from_wire(dispatch)).await;
        Ok(())
    }

    async fn acknowledge(&mut self, ack: ReportAck) {
        let Some(attempt) = Attempt::from_wire(ack.attempt.as_ref()) else { return };
        match ack.result() {
            AckResult::Stale => self.session.runner.drop_stale(attempt),
            AckResult::Recorded => {}
            AckResult::Unspecified => return,
        }
        self.sent.remove(&attempt);
        let (spool, sequence) = (std::sync::Arc::clone(&self.session.spool), ack.sequence);
        match tokio::task::spawn_blocking(move || spool.acknowledge(attempt, sequence)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = crate::error::chain(&error), "report not removed"),
            Err(panic) => tracing::error!(%panic, "removing a report panicked"),
        }
    }

    /// Progress first: a terminal report makes it void.
    async fn send_reports(&mut self) -> Result<(), SessionError> {
        for report in self.session.outbox.take_progress() {
            self.send(agent_message::Kind::Report(report)).await?;
        }
        for (attempt, report) in self.session.spool.pending() {
            if self.sent.get(&attempt).is_none_or(|sent| sent.elapsed() >= RESEND_AFTER) {
                self.sent.insert(attempt, Instant::now());
                self.send(agent_message::Kind::Report(report)).await?;
            }
        }
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<(), SessionError> {
        self.send(agent_message::Kind::Heartbeat(Heartbeat {})).await?;
        self.send_reports().await
    }

    async fn send_disks(&mut self) -> Result<(), SessionError> {
        let Some(disks) = self.session.list_disks().await.filter(|disks| *disks != self.disks) else {
            return Ok(());
        };
        self.disks.clone_from(&disks);
        self.send(agent_message::Kind::DisksChanged(DisksChanged { disks })).await
    }

    async fn send(&self, kind: agent_message::Kind) -> Result<(), SessionError> {
        send(&self.outbound, kind, self.session.config.timing.call_timeout).await
    }
}

impl Session {
    fn hello(&self, disks: Vec<Disk>) -> Hello {
        // First: what a step that ends meanwhile has taken is in the spool, and not removed.
        let snapshots = self.snapshots.with_steps();
        let running = self.runner.running();
        let is_settled = |step: StepId| !running.iter().any(|attempt| attempt.step == step);
        let settled = snapshots.iter().filter(|(_, step)| is_settled(*step));
        Hello {
            boot_id: self.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            disks,
            snapshot_ids: snapshots.iter().map(|(id, _)| id.to_string()).collect(),
            settled_snapshot_ids: settled.map(|(id, _)| id.to_string()).collect(),
            running: running.into_iter().map(Attempt::to_wire).collect(),
        }
    }

    /// Does what the controller decided about Hello. Returns the heartbeat interval.
    fn act_on(&self, welcome: &Welcome) -> Duration {
        for verdict in &welcome.attempts {
            if verdict.verdict() == Verdict::Abandon
                && let Some(attempt) = Attempt::from_wire(verdict.attempt.as_ref())
            {
                self.runner.abandon(attempt);
            }
        }
        // The controller cannot want a snapshot yet whose report it has not seen.
        let unreported: Vec<SnapshotId> = self
            .spool
            .pending()
            .iter()
            .filter_map(|(_, report)| taken_snapshot(report.outcome.as_ref()?))
            .collect();
        for id in welcome.remove_snapshot_ids.iter().filter_map(|id| id.parse().ok()) {
            if !unreported.contains(&id) {
                // In the background; it is not listed any more.
                self.snapshots.release(id);
            }
        }
        heartbeat_interval(welcome)
    }

    /// `None` if it panicked. That says nothing of the disks, and the controller forgets those that it is not told of.
    async fn list_disks(&self) -> Option<Vec<Disk>> {
        let inventory = std::sync::Arc::clone(&self.inventory);
        let listed = tokio::task::spawn_blocking(move || inventory.list()).await;
        listed.inspect_err(|panic| tracing::error!(%panic, "listing the disks panicked")).ok()
    }
}

async fn send(
    outbound: &mpsc::Sender<AgentMessage>,
    kind: agent_message::Kind,
    timeout: Duration,
) -> Result<(), SessionError> {
    match tokio::time::timeout(timeout, outbound.send(AgentMessage { kind: Some(kind) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SessionError::Closed),
        Err(_) => Err(SessionError::Timeout { what: "read" }),
    }
}
