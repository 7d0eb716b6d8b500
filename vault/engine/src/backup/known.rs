//! Cells whose bytes the vault has already, from any machine.
//!
//! Only the gateway knows: agents send everything that changed, so none can ask what others have. Nothing is believed that was not
//! just read: a known cell is fetched, decoded and compared before anything refers to it. So what is damaged is
//! stored anew, and what a collection removed meanwhile as well.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::segment::{CellKind, CellRef};

use crate::directory::Segment;
use crate::segment::StoredCells;
use crate::segment_id::SegmentId;
use crate::{Vault, VaultError, object};

use super::check::CheckedCell;

/// Segments whose cells are looked for; as many streams of blocks can be followed at once.
const FOLLOWED: usize = 8;
/// What stands for a known cell takes some hundred bytes.
const LEAST_BYTES: usize = 512;
/// Whoever comes so near to the end of a segment goes on in the next.
const NEAR_END: usize = 16;
/// Cells that are read by one request, at most: 4 MiB of plain bytes.
const AT_ONCE: usize = 32;
/// To find out must not take longer than to store it again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a cell's bytes are.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: SegmentId,
    pub(super) segment: Arc<Segment>,
    pub(super) cell: u32,
}

impl Known {
    pub(super) fn reference(&self) -> CellRef {
        let SegmentId { machine, seq, number, generation } = self.id;
        CellRef { machine, seq, number, generation, root: self.segment.root, cell: self.cell }
    }

    /// Whether the directory says that it holds this.
    pub(super) fn has(&self, hash: &[u8; 32], plain_len: u32) -> bool {
        self.segment.entry(self.cell).is_ok_and(|entry| {
            matches!(entry.kind, CellKind::Data { .. }) && (entry.hash, entry.plain_len) == (*hash, plain_len)
        })
    }
}

/// What came of reading known cells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checked {
    True,
    Damaged,
    /// The segment is gone, or cannot be read now.
    Useless,
}

/// Looks for the cells of one backup.
pub(super) struct Finder {
    /// `None` if it cannot be told: then nothing counts as known.
    condemned: Option<Arc<HashSet<CondemnedSegment>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that was used last comes last.
    followed: VecDeque<Followed>,
    /// Segments that are of no use: damaged, gone or condemned.
    refused: HashSet<SegmentId>,
    /// The storage once took too long: nothing more is looked for.
    is_slow: bool,
}

impl State {
    /// The cells of a segment are stored again. `None`: it took too long.
    fn doubt(&mut self, id: SegmentId, error: Option<&VaultError>) {
        tell(id, error);
        self.is_slow |= error.is_none();
        self.refused.insert(id);
        self.followed.retain(|followed| followed.id != id);
    }
}

struct Followed {
    id: SegmentId,
    segment: Arc<Segment>,
    /// By the first bytes of their hashes.
    cells: HashMap<[u8; 8], u32>,
}

impl Finder {
    pub(super) fn new(condemned: Option<Arc<HashSet<CondemnedSegment>>>) -> Self {
        Self { condemned, state: Mutex::default() }
    }

    /// Where the bytes of these cells are stored, as far as it is known and true.
    pub(super) async fn find(&self, vault: &Vault, cells: &[CheckedCell]) -> Vec<Option<Known>> {
        let mut found = Vec::with_capacity(cells.len());
        for cell in cells {
            found.push(self.look(vault, cell).await);
        }
        let mut first = 0;
        while first < found.len() {
            let mut end = first + 1;
            while end < found.len() && follows(found[end - 1].as_ref(), found[end].as_ref()) {
                end += 1;
            }
            if self.check(vault, &mut found[first..end]).await == Checked::Damaged && end - first > 1 {
                for one in found[first..end].chunks_mut(1) {
                    self.check(vault, one).await;
                }
            }
            first = end;
        }
        found
    }

    /// Forgets those that do not hold now what they should: these lie together in one segment. If it is damage, they stay as they are
    /// when they are more than one: not all of them need be damaged.
    async fn check(&self, vault: &Vault, found: &mut [Option<Known>]) -> Checked {
        let Some(first) = found.first().cloned().flatten() else { return Checked::True };
        let id = first.id;
        let is_useless = {
            let state = self.state();
            state.is_slow || state.refused.contains(&id)
        };
        if is_useless {
            found.fill(None);
            return Checked::Useless;
        }
        match in_time(read(vault, first, found.len())).await {
            Ok(()) => return Checked::True,
            Err(Some(error)) if error.is_damage() && !matches!(error, VaultError::Missing { .. }) => {
                if found.len() == 1 {
                    tell(id, Some(&error));
                    found.fill(None);
                }
                return Checked::Damaged;
            }
            Err(error) => self.state().doubt(id, error.as_ref()),
        }
        found.fill(None);
        Checked::Useless
    }

    async fn look(&self, vault: &Vault, cell: &CheckedCell) -> Option<Known> {
        let samples = vault.inner.samples.as_ref()?;
        if cell.cell.data.len() < LEAST_BYTES {
            return None;
        }
        let known = match self.followed(cell) {
            Some(known) => known,
            None => {
                self.follow(vault, samples.find(&cell.hash)?).await;
                self.followed(cell)?
            }
        };
        if known.cell as usize + NEAR_END >= known.segment.directory.cells.len() {
            self.follow(vault, SegmentId { number: known.id.number.checked_add(1)?, ..known.id }).await;
        }
        Some(known)
    }

    fn followed(&self, cell: &CheckedCell) -> Option<Known> {
        let mut state = self.state();
        let known = |followed: &Followed| {
            let number = *followed.cells.get(&cell.hash[..8])?;
            let known = Known { id: followed.id, segment: Arc::clone(&followed.segment), cell: number };
            known.has(&cell.hash, cell.cell.plain_bytes).then_some(known)
        };
        let (at, known) = state
            .followed
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, followed)| Some((at, known(followed)?)))?;
        if let Some(used) = state.followed.remove(at) {
            state.followed.push_back(used);
        }
        Some(known)
    }

    /// Looks for cells in this segment from now on, if that can be.
    async fn follow(&self, vault: &Vault, id: SegmentId) {
        let Some(condemned) = &self.condemned else { return };
        {
            let state = self.state();
            if state.is_slow
                || state.refused.contains(&id)
                || state.followed.iter().any(|followed| followed.id == id)
            {
                return;
            }
        }
        let borrowed = in_time(borrow(vault, id, condemned)).await;
        let mut state = self.state();
        let segment = match borrowed {
            Ok(Some(segment)) => segment,
            Ok(None) => {
                state.refused.insert(id);
                return;
            }
            Err(error) => return state.doubt(id, error.as_ref()),
        };
        let mut cells = HashMap::new();
        for (number, entry) in (0_u32..).zip(&segment.directory.cells) {
            if let (CellKind::Data { .. }, Some(first)) = (entry.kind, entry.hash.first_chunk::<8>()) {
                cells.insert(*first, number);
            }
        }
        state.followed.push_back(Followed { id, segment, cells });
        if state.followed.len() > FOLLOWED {
            state.followed.pop_front();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that still read and have the bytes that they stand for: it was so when they were found, by an attempt that may have ended
/// long ago.
///
/// # Errors
/// If the storage does not answer: then nothing is known of them.
pub(super) async fn keep_true(
    vault: &Vault,
    found: Vec<(u32, Known)>,
    until: Instant,
) -> Result<HashMap<u32, Known>, VaultError> {
    let mut kept = HashMap::new();
    for run in found.chunk_by(|(_, before), (_, next)| follows(Some(before), Some(next))) {
        for part in run.chunks(AT_ONCE) {
            if Instant::now() >= until {
                return Ok(kept);
            }
            match read(vault, part[0].1.clone(), part.len()).await {
                Ok(()) => kept.extend(part.iter().cloned()),
                Err(error) if error.is_damage() => {
                    tell(part[0].1.id, Some(&error));
                    for (cell, known) in part {
                        match read(vault, known.clone(), 1).await {
                            Ok(()) => drop(kept.insert(*cell, known.clone())),
                            Err(error) if error.is_damage() => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(kept)
}

/// Whether both can be read by one request.
fn follows(before: Option<&Known>, next: Option<&Known>) -> bool {
    before.zip(next).is_some_and(|(before, next)| before.id == next.id && before.cell + 1 == next.cell)
}

/// Reads so many cells and compares them with their hashes.
async fn read(vault: &Vault, first: Known, count: usize) -> Result<(), VaultError> {
    let Known { segment, cell, .. } = first;
    let cells = cell..=cell + u32::try_from(count).unwrap_or(u32::MAX) - 1;
    let stored = StoredCells::read(vault, segment, cells.clone()).await?;
    let compare = move || cells.into_iter().try_for_each(|cell| stored.check(cell));
    crate::blocking(compare).await
}

/// `None`: it took too long.
async fn in_time<T>(work: impl Future<Output = Result<T, VaultError>>) -> Result<T, Option<VaultError>> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(outcome) => outcome.map_err(Some),
        Err(_) => Err(None),
    }
}

/// A segment that a backup wants to refer to, if it may and the segment is there: its writer may have been killed before its name was
/// durable.
pub(super) async fn borrow(
    vault: &Vault,
    id: SegmentId,
    condemned: &HashSet<CondemnedSegment>,
) -> Result<Option<Arc<Segment>>, VaultError> {
    // What is in memory may be gone.
    if condemned.contains(&id.into()) || !object::exists(vault.store(), &id.name()).await? {
        return Ok(None);
    }
    if !object::make_durable(vault.storage(), &id.name()).await? {
        return Ok(None);
    }
    vault.segment(id).await.map(Some)
}

/// Why the cells of a segment are stored again.
fn tell(id: SegmentId, error: Option<&VaultError>) {
    let segment = id.name();
    match error {
        Some(VaultError::Missing { .. }) => debug!(segment, "stored again: it is gone"),
        Some(error) => {
            warn!(segment, error = error as &dyn std::error::Error, "stored again: it does not read")
        }
        None => warn!(segment, timeout = ?TIMEOUT, "stored again: it does not read in time"),
    }
}
