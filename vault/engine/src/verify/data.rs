//! Reading segments whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::time::Instant;

use crate::directory::Segment;
use crate::error::chain;
use crate::segment::{Listed, StoredCells};
use crate::segment_id::SegmentId;
use crate::{Vault, VaultError};

use super::VerifyPace;

/// Requests under way, each with its bytes once as stored and a cell of them decoded: some 40 MiB.
const IN_FLIGHT: usize = 6;

/// What came of reading segments.
#[derive(Default)]
pub(crate) struct Read {
    pub(super) bytes: u64,
    pub(super) damaged: BTreeMap<SegmentId, DamagedCells>,
    /// Those that are not there, or went meanwhile.
    gone: BTreeSet<SegmentId>,
}

/// What of a segment is damaged.
#[derive(Clone, Debug)]
pub(super) struct DamagedCells {
    /// Of the first of them.
    pub(super) reason: String,
    pub(super) cells: Cells,
}

impl DamagedCells {
    /// Nothing of it can be read.
    pub(super) fn all(reason: String) -> Self {
        Self { reason, cells: Cells::All }
    }
}

/// `All`: the directory, or the whole segment.
#[derive(Clone, Debug)]
pub(super) enum Cells {
    All,
    Some(Vec<u32>),
}

/// Cells that are read by one request.
struct Chunk {
    segment: Arc<Segment>,
    cells: Range<u32>,
    /// It ends its segment.
    is_last: bool,
}

impl Read {
    /// What is damaged or missing, if anything is.
    pub(crate) fn reason(self) -> Option<String> {
        let damaged = self.damaged.into_values().next().map(|damaged| damaged.reason);
        damaged.or_else(|| self.gone.first().map(missing))
    }
}

impl Vault {
    /// The cells of a segment that do not read or are not what they should be. All are read.
    ///
    /// # Errors
    /// Also damage of the segment as a whole.
    pub(crate) async fn damaged_cells(&self, segment: &Segment) -> Result<HashSet<u32>, VaultError> {
        let read = self.read_segments(&[segment.id], VerifyPace::Full, &mut |_, _, _| {}).await?;
        if !read.gone.is_empty() {
            return Err(VaultError::Missing { object: segment.name.clone() });
        }
        match read.damaged.into_values().next() {
            None => Ok(HashSet::new()),
            Some(DamagedCells { cells: Cells::Some(cells), .. }) => Ok(cells.into_iter().collect()),
            Some(DamagedCells { cells: Cells::All, reason }) => {
                Err(VaultError::mismatch(&segment.name, reason))
            }
        }
    }

    /// The same of those of which points need something: where one was replaced meanwhile, what took its place is read too.
    pub(super) async fn read_needed(
        &self,
        ids: &[SegmentId],
        pace: VerifyPace,
        tell: &mut (impl FnMut(usize, usize, u64) + Send),
    ) -> Result<Read, VaultError> {
        let total = ids.len();
        let mut all = self.read_segments(ids, pace, tell).await?;
        let mut seen: BTreeSet<SegmentId> = ids.iter().copied().collect();
        let mut gone = std::mem::take(&mut all.gone);
        while !gone.is_empty() {
            let (mut listed, mut came) = (Listed::default(), Vec::new());
            for id in gone {
                // Whether something makes up for it is found out block by block.
                add(&mut all.damaged, id, Cells::All, missing(&id));
                let there = listed.copies(self, SegmentId { generation: 0, ..id }).await?;
                came.extend(there.into_iter().filter(|id| seen.insert(*id)));
            }
            let read = self.read_segments(&came, pace, &mut |_, _, bytes| tell(total, total, bytes)).await?;
            all.bytes += read.bytes;
            all.damaged.extend(read.damaged);
            gone = read.gone;
        }
        Ok(all)
    }

    /// Reads exactly these segments and compares every cell with its hash.
    pub(crate) async fn read_segments(
        &self,
        ids: &[SegmentId],
        pace: VerifyPace,
        tell: &mut (impl FnMut(usize, usize, u64) + Send),
    ) -> Result<Read, VaultError> {
        let mut read = Read::default();
        let (mut done, total) = (0, ids.len());
        let in_flight = match pace {
            VerifyPace::Full => IN_FLIGHT,
            VerifyPace::Gentle => 1,
        };
        let mut chunks = futures::stream::iter(ids.iter().copied())
            .map(|id| async move { (id, self.chunks(id).await) })
            .buffered(in_flight)
            .flat_map(|(id, chunks)| {
                futures::stream::iter(match chunks {
                    Ok(chunks) => chunks.into_iter().map(|chunk| (id, Ok(chunk))).collect(),
                    Err(error) => vec![(id, Err(error))],
                })
            })
            .map(|(id, chunk)| async move {
                let start = Instant::now();
                let outcome = match chunk {
                    Ok(chunk) => (id, chunk.is_last, self.read_chunk(chunk).await),
                    Err(error) => (id, true, Err(error)),
                };
                if pace == VerifyPace::Gentle {
                    tokio::time::sleep(start.elapsed() * 3).await;
                }
                outcome
            })
            .buffered(in_flight);
        while let Some((id, is_last, outcome)) = chunks.next().await {
            let mut bytes = 0;
            match outcome {
                Ok(chunk) => {
                    bytes = chunk.bytes;
                    for (cells, reason) in chunk.damaged {
                        add(&mut read.damaged, id, cells, reason);
                    }
                }
                Err(VaultError::Missing { .. }) => drop(read.gone.insert(id)),
                Err(error) if error.is_damage() => add(&mut read.damaged, id, Cells::All, chain(&error)),
                Err(error) => return Err(error),
            }
            done += usize::from(is_last);
            read.bytes += bytes;
            tell(done, total, bytes);
        }
        drop(chunks);
        Ok(read)
    }

    async fn chunks(&self, id: SegmentId) -> Result<Vec<Chunk>, VaultError> {
        // What is in memory says nothing about what the disk has.
        self.storage().forget_cached(&id.name()).await?;
        if self.storage().root().is_some() {
            self.inner.segments.forget(id);
        }
        let segment = self.exact_segment(id).await?;
        let mut chunks: Vec<Chunk> = segment
            .chunks()?
            .into_iter()
            .map(|cells| Chunk { segment: Arc::clone(&segment), cells, is_last: false })
            .collect();
        if let Some(last) = chunks.last_mut() {
            last.is_last = true;
        }
        Ok(chunks)
    }

    async fn read_chunk(&self, chunk: Chunk) -> Result<ChunkRead, VaultError> {
        let Chunk { segment, cells, is_last } = chunk;
        let mut damaged = Vec::new();
        if is_last && let Err(error) = self.segment_table(&segment).await {
            // Which blocks the cells hold: only a backup that goes on after a crash reads it.
            if !error.is_damage() || matches!(error, VaultError::Missing { .. }) {
                return Err(error);
            }
            damaged.push((Cells::Some(Vec::new()), chain(&error)));
        }
        let stored = StoredCells::read(self, segment, cells.start..=cells.end - 1).await?;
        let check = move || {
            for cell in cells {
                if let Err(error) = stored.check(cell) {
                    damaged.push((Cells::Some(vec![cell]), chain(&error)));
                }
            }
            ChunkRead { bytes: stored.len(), damaged }
        };
        tokio::task::spawn_blocking(check).await.map_err(|source| VaultError::Worker { source })
    }
}

fn missing(id: &SegmentId) -> String {
    VaultError::Missing { object: id.name() }.to_string()
}

struct ChunkRead {
    bytes: u64,
    damaged: Vec<(Cells, String)>,
}

fn add(damaged: &mut BTreeMap<SegmentId, DamagedCells>, id: SegmentId, more: Cells, reason: String) {
    let known = damaged.entry(id).or_insert(DamagedCells { reason, cells: Cells::Some(Vec::new()) });
    match (&mut known.cells, more) {
        (Cells::Some(cells), Cells::Some(more)) => cells.extend(more),
        (cells, Cells::All) => *cells = Cells::All,
        (Cells::All, Cells::Some(_)) => {}
    }
}
