//! The generations of a segment. They are made of each other, so what one of them does not give another one may.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::warn;

use holdfast_vault_format::kept::Blocks;

use crate::{Vault, VaultError};

use super::{Segment, SegmentId};

/// How often what is there is listed: of what was listed everything may be gone when it is read, replaced once more.
const LOOKS: u32 = 4;

/// The generations of a segment whose directory reads, from the named one on. Mostly the first is all that is asked for.
pub(crate) struct Copies<'v> {
    vault: &'v Vault,
    id: SegmentId,
    tried: Vec<u32>,
    listed: VecDeque<SegmentId>,
    looks: u32,
    has_read: bool,
    damage: Option<VaultError>,
    lack: Option<VaultError>,
}

impl<'v> Copies<'v> {
    pub(crate) fn of(vault: &'v Vault, id: SegmentId) -> Self {
        let (tried, listed) = (Vec::new(), VecDeque::new());
        Self { vault, id, tried, listed, looks: 0, has_read: false, damage: None, lack: None }
    }

    /// `None`: there are no more of them, see [`Self::error`].
    pub(crate) async fn next(&mut self) -> Result<Option<Arc<Segment>>, VaultError> {
        while let Some(id) = self.candidate().await? {
            match self.vault.exact_segment(id).await {
                Ok(segment) => {
                    if !std::mem::replace(&mut self.has_read, true) {
                        self.vault.inner.segments.put(self.id, Arc::clone(&segment));
                    }
                    return Ok(Some(segment));
                }
                Err(error) => self.refuse(id, error)?,
            }
        }
        Ok(None)
    }

    async fn candidate(&mut self) -> Result<Option<SegmentId>, VaultError> {
        let Self { vault, id, .. } = *self;
        let next = if self.tried.is_empty() {
            let read = vault.inner.segments.get(id).map(|segment| segment.id.generation);
            let known = vault.inner.replaced.generation(id);
            let generation = read.or(known).unwrap_or(id.generation).max(id.generation);
            Some(SegmentId { generation, ..id })
        } else {
            while self.listed.is_empty() && self.looks < LOOKS {
                self.looks += 1;
                let there = vault.generations(id).await?;
                self.listed.extend(there.into_iter().filter(|id| !self.tried.contains(&id.generation)));
                if self.listed.is_empty() {
                    break;
                }
            }
            self.listed.pop_front()
        };
        self.tried.extend(next.map(|id| id.generation));
        Ok(next)
    }

    /// Whether this one holds these blocks of a cell.
    pub(crate) fn holds(&mut self, segment: &Segment, cell: u32, blocks: Blocks) -> Result<bool, VaultError> {
        match segment.holds(cell, blocks) {
            Ok(true) => return Ok(true),
            Ok(false) => {
                let detail = format!("cell {cell} does not hold what its delta says");
                self.lack.get_or_insert_with(|| VaultError::mismatch(&segment.name, detail));
            }
            Err(error) => self.refuse(segment.id, error)?,
        }
        Ok(false)
    }

    /// One of them does not give what it should.
    ///
    /// # Errors
    /// If that says nothing about it.
    pub(crate) fn refuse(&mut self, id: SegmentId, error: VaultError) -> Result<(), VaultError> {
        match error {
            VaultError::Missing { .. } => {
                self.vault.inner.segments.forget(self.id);
                self.vault.inner.segments.forget(id);
            }
            error if error.is_damage() => {
                let segment = id.name();
                warn!(
                    segment,
                    error = &error as &dyn std::error::Error,
                    "damaged: another generation is looked for"
                );
                self.damage.get_or_insert(error);
            }
            error => return Err(error),
        }
        Ok(())
    }

    /// Why none of them gives it.
    pub(crate) fn error(self) -> VaultError {
        let missing = || VaultError::Missing { object: self.id.name() };
        self.damage.or(self.lack).unwrap_or_else(missing)
    }
}

impl Vault {
    /// Reads a segment's directory, or answers it from the cache. If the segment was replaced, or its directory does not read, it is
    /// that of the lowest later generation that does.
    pub(crate) async fn segment(&self, id: SegmentId) -> Result<Arc<Segment>, VaultError> {
        let mut copies = Copies::of(self, id);
        match copies.next().await? {
            Some(segment) => Ok(segment),
            None => Err(copies.error()),
        }
    }

    /// The same of exactly this generation.
    pub(crate) async fn exact_segment(&self, id: SegmentId) -> Result<Arc<Segment>, VaultError> {
        if let Some(segment) = self.inner.segments.get(id).filter(|segment| segment.id == id) {
            return Ok(segment);
        }
        let segment = Arc::new(self.read_segment(id).await?);
        self.inner.segments.put(id, Arc::clone(&segment));
        Ok(segment)
    }

    /// A segment, or what replaced it, that holds these blocks of a cell. Mostly the lowest generation does: the next one is
    /// made of it. But of two that several collectors made, it may be the other one.
    pub(crate) async fn holder(
        &self,
        id: SegmentId,
        cell: u32,
        blocks: Blocks,
    ) -> Result<Arc<Segment>, VaultError> {
        let mut copies = Copies::of(self, id);
        while let Some(segment) = copies.next().await? {
            if copies.holds(&segment, cell, blocks)? {
                return Ok(segment);
            }
        }
        Err(copies.error())
    }
}
