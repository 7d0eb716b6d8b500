//! Transfers that are open on this gateway: one per machine, since one gateway serves all streams of one attempt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, MachineId, StepId};
use holdfast_vault_engine::{Backup, Point};

use crate::error::{busy, foreign, reopen};
use crate::metrics::TRANSFERS;

/// Upload streams of one transfer, as many as agents may be configured for; each holds up to two frames of at most 3 MiB.
const MAX_STREAMS: usize = 8;
/// Block maps of one transfer that are read at once: agents scan 12 disks at once, and read two layers of each.
const MAX_MAPS: usize = 32;

/// Why a connection's streams end.
pub(crate) const ENDED: &str = "the transfer was opened again, or ended";

#[derive(Default)]
pub(crate) struct Transfers {
    by_machine: Mutex<HashMap<MachineId, Arc<Transfer>>>,
    /// Opening is slow and must not happen twice at once for one machine.
    opening: Locks<MachineId>,
    /// What an agent asks for again and again must not pile up.
    turns: Locks<AgentId>,
}

/// A lock for each of many, for as long as somebody holds it or waits for it.
type Locks<K> = Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>;

/// One open transfer.
pub(crate) struct Transfer {
    pub(crate) agent: AgentId,
    pub(crate) machine: MachineId,
    pub(crate) step: StepId,
    pub(crate) attempt: i64,
    pub(crate) backup: Backup,
    pub(crate) commit: Arc<tokio::sync::Mutex<CommitState>>,
    connection: Mutex<Connection>,
}

/// How far a commit got.
#[derive(Default)]
pub(crate) enum CommitState {
    #[default]
    Receiving,
    /// The point exists, the catalogue may not know it.
    Created(Box<Point>),
    Recorded(Box<Point>),
}

/// The agent's current use of a transfer: each time it opens the transfer, its older streams end.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) id: String,
    pub(crate) closed: CancellationToken,
    /// What must not stop in the middle when a stream ends.
    pub(crate) work: TaskTracker,
    /// Names of the disks, in the agent's order.
    pub(crate) disks: Arc<[String]>,
    /// Places for upload streams, and for block maps that are read.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) maps: Arc<Semaphore>,
    last_used: Instant,
}

impl Transfers {
    pub(crate) fn get(&self, machine: MachineId) -> Option<Arc<Transfer>> {
        locked(&self.by_machine).get(&machine).cloned()
    }

    /// The transfer that this agent has open.
    ///
    /// # Errors
    /// UNAVAILABLE if it has none.
    pub(crate) fn of(&self, agent: AgentId) -> Result<(Arc<Transfer>, Connection), Status> {
        let found = locked(&self.by_machine).values().find(|transfer| transfer.agent == agent).cloned();
        let transfer = found.ok_or_else(|| reopen("this agent has no transfer open on this gateway"))?;
        let connection = transfer.touched();
        Ok((transfer, connection))
    }

    /// The transfer of this id, and the agent's connection with that id.
    ///
    /// # Errors
    /// PERMISSION_DENIED if it is another agent's, UNAVAILABLE if it is not open (any more).
    pub(crate) fn find(
        &self,
        agent: AgentId,
        transfer_id: &str,
    ) -> Result<(Arc<Transfer>, Connection), Status> {
        let found = locked(&self.by_machine)
            .values()
            .find(|transfer| locked(&transfer.connection).id == transfer_id)
            .cloned()
            .ok_or_else(|| reopen("this transfer is not open on this gateway"))?;
        if found.agent != agent {
            return Err(foreign());
        }
        let connection = found.touched();
        if connection.id == transfer_id {
            Ok((found, connection))
        } else {
            Err(reopen("the transfer was opened again"))
        }
    }

    /// Makes this the machine's transfer; an older one ends.
    pub(crate) fn insert(&self, transfer: Arc<Transfer>) {
        let mut map = locked(&self.by_machine);
        let old = map.insert(transfer.machine, transfer);
        TRANSFERS.set(map.len());
        drop(map);
        if let Some(old) = old {
            old.close();
        }
    }

    pub(crate) fn remove(&self, transfer: &Arc<Transfer>) {
        let mut map = locked(&self.by_machine);
        if map.get(&transfer.machine).is_some_and(|current| Arc::ptr_eq(current, transfer)) {
            map.remove(&transfer.machine);
        }
        TRANSFERS.set(map.len());
        drop(map);
        transfer.close();
    }

    /// Ends every stream: the gateway stops.
    pub(crate) fn close_all(&self) {
        for transfer in self.all() {
            transfer.close();
        }
    }

    /// Held while a machine's transfer is opened.
    pub(crate) fn opening(&self, machine: MachineId) -> Arc<tokio::sync::Mutex<()>> {
        lock_of(&self.opening, machine)
    }

    /// Held while something is done for an agent that it may ask for again meanwhile.
    pub(crate) fn turn(&self, agent: AgentId) -> Arc<tokio::sync::Mutex<()>> {
        lock_of(&self.turns, agent)
    }

    /// Refuses a machine's transfer when there are too many; those that are committed give way. The transfers that are
    /// just being opened count.
    pub(crate) fn make_room(&self, machine: MachineId, limit: usize) -> Result<(), Status> {
        if self.crowd(machine) >= limit {
            for transfer in self.all() {
                if transfer.is_committed() {
                    self.remove(&transfer);
                }
            }
        }
        if self.crowd(machine) >= limit { Err(busy("too many transfers")) } else { Ok(()) }
    }

    /// Transfers of other machines, open or being opened.
    fn crowd(&self, machine: MachineId) -> usize {
        let open = locked(&self.by_machine);
        let opening = locked(&self.opening);
        let others = opening.iter().filter(|(other, lock)| {
            !open.contains_key(other) && **other != machine && Arc::strong_count(lock) > 1
        });
        open.keys().filter(|other| **other != machine).count() + others.count()
    }

    /// Transfers that nobody called for so long and that are not in the middle of a commit.
    pub(crate) fn idle(&self, idle: Duration) -> Vec<Arc<Transfer>> {
        let mut transfers = self.all();
        transfers.retain(|transfer| {
            locked(&transfer.connection).last_used.elapsed() > idle && transfer.commit.try_lock().is_ok()
        });
        transfers
    }

    /// Whether the commit of this backup is under way here.
    pub(crate) fn is_committing(&self, machine: MachineId, seq: u64) -> bool {
        self.get(machine)
            .is_some_and(|transfer| transfer.backup.seq() == seq && transfer.commit.try_lock().is_err())
    }

    fn all(&self) -> Vec<Arc<Transfer>> {
        locked(&self.by_machine).values().cloned().collect()
    }
}

impl Transfer {
    pub(crate) fn new(
        agent: AgentId,
        machine: MachineId,
        (step, attempt): (StepId, i64),
        disks: Vec<String>,
        backup: Backup,
    ) -> Arc<Self> {
        let connection = Mutex::new(Connection::new(disks));
        Arc::new(Self { agent, machine, step, attempt, backup, commit: Arc::default(), connection })
    }

    pub(crate) fn connection(&self) -> Connection {
        locked(&self.connection).clone()
    }

    /// Ends the streams of the agent's earlier connection; answers that one's work.
    pub(crate) fn reconnect(&self, disks: Vec<String>) -> TaskTracker {
        let mut connection = locked(&self.connection);
        connection.closed.cancel();
        let old = std::mem::replace(&mut *connection, Connection::new(disks));
        old.work.close();
        old.work
    }

    pub(crate) fn touch(&self) {
        locked(&self.connection).last_used = Instant::now();
    }

    fn touched(&self) -> Connection {
        self.touch();
        self.connection()
    }

    fn is_committed(&self) -> bool {
        self.commit.try_lock().is_ok_and(|state| matches!(*state, CommitState::Recorded(_)))
    }

    fn close(&self) {
        locked(&self.connection).closed.cancel();
    }
}

impl Connection {
    fn new(disks: Vec<String>) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            closed: CancellationToken::new(),
            work: TaskTracker::new(),
            disks: disks.into(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            maps: Arc::new(Semaphore::new(MAX_MAPS)),
            last_used: Instant::now(),
        }
    }
}

fn lock_of<K: Eq + std::hash::Hash>(locks: &Locks<K>, key: K) -> Arc<tokio::sync::Mutex<()>> {
    let mut locks = locked(locks);
    locks.retain(|_, lock| Arc::strong_count(lock) > 1);
    Arc::clone(locks.entry(key).or_default())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
