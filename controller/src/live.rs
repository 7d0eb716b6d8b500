//! The agents that are connected here, one [`Live`] each. What would be a write to the database for each of them is gathered
//! and flushed by `tasks`.

mod dispatch;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use holdfast_proto::error::{ErrorDetailExt as _, system_error};
use holdfast_proto::ids::{AgentId, MachineId, StepId};
use holdfast_proto::v1::{ControllerMessage, Ping, controller_message};

use crate::store::session::{HeardSession, ProgressUpdate};

pub(crate) use dispatch::wire_attempt;

/// Messages that may wait for one agent; one that does not read them is disconnected.
pub(crate) const OUTBOUND: usize = 64;

/// Attempts whose progress waits to be written; what is beyond waits for its next report.
const MAX_PROGRESS: usize = 100_000;

pub(crate) type Outbound = mpsc::Sender<Result<ControllerMessage, Status>>;

/// All sessions of this controller.
#[derive(Debug)]
pub(crate) struct Sessions {
    knowledge: Mutex<Knowledge>,
    live: Mutex<HashMap<AgentId, Arc<Live>>>,
    progress: Mutex<HashMap<(StepId, i64), ProgressUpdate>>,
    /// Seen by all that wait for jobs to change: something may be ready to be dispatched or shown.
    changes: watch::Sender<()>,
}

/// What the database can be asked about who lives, as far as this controller is to tell it.
#[derive(Debug)]
struct Knowledge {
    /// Since when all that is heard is written down.
    complete_since: Instant,
    /// Some of it is on its way.
    is_being_written: bool,
}

/// Who was heard of, on the way to the database. If it does not get there, for whatever reason, they count as heard of again, and
/// this controller as one that knows of nobody: leases may run out for want of it.
#[derive(Debug)]
pub(crate) struct Heard<'s> {
    sessions: &'s Sessions,
    heard: Vec<HeardSession>,
    is_written: bool,
}

/// One connected agent.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) agent: AgentId,
    pub(crate) machine: MachineId,
    pub(crate) epoch: i64,
    outbound: Outbound,
    /// Handed to this session and not ended: what its heartbeats keep alive.
    attempts: Mutex<HashSet<(StepId, i64)>>,
    /// Heard of since the last flush.
    heard: AtomicBool,
    last_pong: AtomicU64,
    ponged: Notify,
    /// Ends the session; the reason goes to the agent if it can still be told.
    pub(crate) closed: CancellationToken,
}

/// The agent has no session here, or does not read.
#[derive(Debug)]
pub(crate) struct NotDelivered;

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            knowledge: Mutex::new(Knowledge { complete_since: Instant::now(), is_being_written: false }),
            live: Mutex::default(),
            progress: Mutex::default(),
            changes: watch::Sender::default(),
        }
    }

    /// Says that jobs changed.
    pub(crate) fn wake(&self) {
        self.changes.send_replace(());
    }

    /// Sees every later [`Sessions::wake`], several at once as one.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether this controller has known for so long who is alive: one that has just started, or could not write down who
    /// lives, does not know who is dead. Nor does one that is still writing it down, however long that takes.
    pub(crate) fn has_known_for(&self, time: Duration) -> bool {
        let knowledge = locked(&self.knowledge);
        !knowledge.is_being_written && knowledge.complete_since.elapsed() >= time
    }

    pub(crate) fn get(&self, agent: AgentId) -> Option<Arc<Live>> {
        locked(&self.live).get(&agent).cloned()
    }

    /// Makes this the agent's session and ends an older one; one that is older itself ends.
    pub(crate) fn register(&self, live: &Arc<Live>) {
        let mut map = locked(&self.live);
        let over = match map.get(&live.agent) {
            Some(current) if current.epoch > live.epoch => Some(Arc::clone(live)),
            _ => map.insert(live.agent, Arc::clone(live)),
        };
        drop(map);
        if let Some(over) = over {
            over.close(superseded());
        }
    }

    /// Forgets this session, unless a newer one took its place.
    pub(crate) fn unregister(&self, live: &Arc<Live>) {
        let mut map = locked(&self.live);
        if map.get(&live.agent).is_some_and(|current| Arc::ptr_eq(current, live)) {
            map.remove(&live.agent);
        }
    }

    pub(crate) fn len(&self) -> usize {
        locked(&self.live).len()
    }

    /// Who was heard of since the last call, to be written down.
    pub(crate) fn take_heard(&self) -> Heard<'_> {
        locked(&self.knowledge).is_being_written = true;
        let heard = locked(&self.live)
            .values()
            .filter(|live| live.heard.swap(false, Ordering::Relaxed))
            .map(|live| HeardSession {
                agent: live.agent,
                epoch: live.epoch,
                attempts: locked(&live.attempts).iter().copied().collect(),
            })
            .collect();
        Heard { sessions: self, heard, is_written: false }
    }

    /// This session of an agent, if it still is the one.
    pub(crate) fn find(&self, agent: AgentId, epoch: i64) -> Option<Arc<Live>> {
        self.get(agent).filter(|live| live.epoch == epoch)
    }

    /// The sessions of a machine: of two agents, while one takes the other's place.
    pub(crate) fn of_machine(&self, machine: MachineId) -> Vec<Arc<Live>> {
        locked(&self.live).values().filter(|live| live.machine == machine).cloned().collect()
    }

    pub(crate) fn note_progress(&self, update: ProgressUpdate) {
        let mut map = locked(&self.progress);
        if map.len() >= MAX_PROGRESS && !map.contains_key(&(StepId(update.step), update.attempt)) {
            return;
        }
        let entry = map.entry((StepId(update.step), update.attempt)).or_default();
        if entry.sequence < update.sequence {
            *entry = update;
        }
    }

    /// The latest progress of each attempt since the last call.
    pub(crate) fn take_progress(&self) -> Vec<ProgressUpdate> {
        std::mem::take(&mut *locked(&self.progress)).into_values().collect()
    }
}

impl Heard<'_> {
    pub(crate) fn sessions(&self) -> &[HeardSession] {
        &self.heard
    }

    /// It is in the database.
    pub(crate) fn written(mut self) {
        self.is_written = true;
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        let mut knowledge = locked(&self.sessions.knowledge);
        knowledge.is_being_written = false;
        if self.is_written {
            return;
        }
        knowledge.complete_since = Instant::now();
        drop(knowledge);
        for session in &self.heard {
            if let Some(live) = self.sessions.get(session.agent) {
                live.note_heard();
            }
        }
    }
}

impl Live {
    /// A session that has just said Hello.
    pub(crate) fn new(agent: AgentId, machine: MachineId, epoch: i64, outbound: Outbound) -> Arc<Self> {
        Arc::new(Self {
            agent,
            machine,
            epoch,
            outbound,
            attempts: Mutex::default(),
            heard: AtomicBool::new(true),
            last_pong: AtomicU64::new(0),
            ponged: Notify::new(),
            closed: CancellationToken::new(),
        })
    }

    pub(crate) fn send(&self, kind: controller_message::Kind) -> Result<(), NotDelivered> {
        match self.outbound.try_send(Ok(ControllerMessage { kind: Some(kind) })) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.close(
                    system_error("agent_does_not_read", "the agent does not read what it is sent")
                        .retryable()
                        .into_status(Code::ResourceExhausted),
                );
                Err(NotDelivered)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NotDelivered),
        }
    }

    pub(crate) fn close(&self, reason: Status) {
        if !self.closed.is_cancelled() {
            // A full queue only means that the agent is not told why.
            let _ = self.outbound.try_send(Err(reason));
            self.closed.cancel();
        }
    }

    /// From now on the session's heartbeats keep this attempt alive.
    pub(crate) fn hand_over(&self, attempt: (StepId, i64)) {
        locked(&self.attempts).insert(attempt);
    }

    pub(crate) fn take_back(&self, attempt: (StepId, i64)) {
        locked(&self.attempts).remove(&attempt);
    }

    pub(crate) fn note_heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    pub(crate) fn note_pong(&self, nonce: u64) {
        self.last_pong.store(nonce, Ordering::Release);
        self.ponged.notify_waiters();
    }

    /// Whether the agent answers a ping that is sent now.
    pub(crate) async fn answers(&self, nonce: u64, within: Duration) -> bool {
        let answered = async {
            loop {
                let waiting = self.ponged.notified();
                tokio::pin!(waiting);
                waiting.as_mut().enable();
                if self.last_pong.load(Ordering::Acquire) == nonce {
                    return true;
                }
                waiting.await;
            }
        };
        if self.send(controller_message::Kind::Ping(Ping { nonce })).is_err() {
            return false;
        }
        tokio::select! {
            answered = answered => answered,
            () = self.closed.cancelled() => false,
            () = tokio::time::sleep(within) => false,
        }
    }
}

pub(crate) fn superseded() -> Status {
    system_error("session_superseded", "a newer session of this agent took over").into_status(Code::Aborted)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
