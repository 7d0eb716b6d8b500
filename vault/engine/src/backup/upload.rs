//! Sealed segments on their way to the storage, and who waits for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::object::{self, Created};
use crate::segment_id::SegmentId;
use crate::writer::SealedSegment;
use crate::{Vault, VaultError, crash_point};

/// Sealed segments that may be on their way to the storage at once; with the open one they bound the memory of a backup.
pub(super) const UPLOADS: usize = 3;
/// A segment that is not stored after so long fails the backup.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);

/// Tells when what was pushed is durable.
#[derive(Debug, Default)]
pub struct Receipt {
    segments: Vec<watch::Receiver<Upload>>,
    pub(super) known_cells: usize,
}

impl Receipt {
    /// Waits for this segment too.
    pub(super) fn add(&mut self, segment: watch::Receiver<Upload>) {
        if !self.segments.last().is_some_and(|last| last.same_channel(&segment)) {
            self.segments.push(segment);
        }
    }

    /// Of the pushed cells, those whose bytes were stored before.
    #[must_use]
    pub fn known_cells(&self) -> usize {
        self.known_cells
    }

    /// Waits until everything of the push is durable.
    pub async fn durable(self) -> Result<(), VaultError> {
        for segment in self.segments {
            wait(segment).await?;
        }
        Ok(())
    }
}

/// How far a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    Pending,
    Durable,
    NoSpace,
    Failed,
}

impl Upload {
    /// An error if it failed; one that goes on has not.
    pub(super) fn result(self) -> Result<(), VaultError> {
        match self {
            Self::Durable | Self::Pending => Ok(()),
            Self::NoSpace => Err(VaultError::NoSpace {
                operation: "create",
                object: "a segment".to_owned(),
                source: object_store::Error::Generic { store: "vault", source: "no space left".into() },
            }),
            Self::Failed => Err(VaultError::Broken),
        }
    }
}

/// Stores a segment and tells all who wait for it.
pub(super) async fn upload(
    vault: Vault,
    segment: SealedSegment,
    done: watch::Sender<Upload>,
    places: Arc<Semaphore>,
) {
    let object = segment.id.name();
    // Without a place the sender goes, which is a failure to all who wait.
    let Ok(_place) = places.acquire_owned().await else { return };
    let SegmentId { machine, seq, number, .. } = segment.id;
    let stored = store_segment(&vault, &object, segment.bytes);
    let outcome = match tokio::time::timeout(WRITE_TIMEOUT, stored).await {
        Ok(Ok(())) => {
            if let Some(samples) = &vault.inner.samples {
                samples.learn(machine, seq, number, segment.hashes);
            }
            Upload::Durable
        }
        Ok(Err(error)) => {
            warn!(object, error = &error as &dyn std::error::Error, "a segment was not written");
            if error.is_no_space() { Upload::NoSpace } else { Upload::Failed }
        }
        Err(_) => {
            warn!(object, timeout = ?WRITE_TIMEOUT, "a segment was not written in time");
            Upload::Failed
        }
    };
    crash_point("engine::segment_durable");
    done.send_replace(outcome);
}

/// Stores a segment under its name, which belongs to this backup alone: nobody else may have taken it.
async fn store_segment(vault: &Vault, object: &str, bytes: Bytes) -> Result<(), VaultError> {
    match object::create(vault.storage(), object, bytes).await? {
        Created::Now => vault.check_mounted().await,
        Created::Before => Err(VaultError::mismatch(object, "another writer took the name")),
    }
}

pub(super) async fn wait(mut upload: watch::Receiver<Upload>) -> Result<(), VaultError> {
    let outcome = upload.wait_for(|upload| *upload != Upload::Pending).await.map(|upload| *upload);
    outcome.map_err(|_| VaultError::Broken)?.result()
}
