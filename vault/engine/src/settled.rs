//! What became of backups, where that never changes: collections look at everything, again and again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Backups that are remembered; more are forgotten and read again.
const MAX_SETTLED: usize = 1 << 19;

/// Backups that restore nothing any more.
#[derive(Debug, Default)]
pub(crate) struct Settled(Mutex<State>);

/// What will always be true of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Aborted,
    Purged,
}

/// What a listing tells of an outcome. Where it is another one, an older copy of the vault was put in its place: what became of the
/// backup may have changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) modified: DateTime<Utc>,
    pub(crate) events: usize,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    machines: HashMap<Uuid, HashMap<u64, (Stamp, Fate)>>,
}

impl Settled {
    pub(crate) fn fate(&self, machine: Uuid, seq: u64, stamp: Stamp) -> Option<Fate> {
        let (known, fate) = *self.state().machines.get(&machine)?.get(&seq)?;
        (known == stamp).then_some(fate)
    }

    pub(crate) fn remember(&self, machine: Uuid, seq: u64, stamp: Stamp, fate: Fate) {
        let mut state = self.state();
        if state.count >= MAX_SETTLED {
            *state = State::default();
        }
        let before = state.machines.entry(machine).or_default().insert(seq, (stamp, fate));
        state.count += usize::from(before.is_none());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
