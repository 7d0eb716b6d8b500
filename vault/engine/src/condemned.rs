use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_vault_format::collection::CondemnedSegment;

/// What was condemned when somebody asked last, by the numbers of the sets.
#[derive(Debug, Default)]
pub(crate) struct CondemnedCache(Mutex<Option<Known>>);

type Known = (Vec<u64>, Arc<HashSet<CondemnedSegment>>);

impl CondemnedCache {
    /// `None` if it was not of these sets.
    pub(crate) fn get(&self, numbers: &[u64]) -> Option<Arc<HashSet<CondemnedSegment>>> {
        let state = self.state();
        let (known, condemned) = state.as_ref()?;
        (known == numbers).then(|| Arc::clone(condemned))
    }

    pub(crate) fn put(&self, numbers: Vec<u64>, condemned: Arc<HashSet<CondemnedSegment>>) {
        *self.state() = Some((numbers, condemned));
    }

    fn state(&self) -> MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
