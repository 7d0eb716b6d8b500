//! Ending a backup: deltas, checks, and the one object that makes it a point.

mod entry;
mod pages;
mod sweep;
mod write;

use chrono::Utc;
use uuid::Uuid;

use holdfast_vault_format::container::{FOOTER_LEN, HEADER_LEN, Kind, TAG_LEN};
use holdfast_vault_format::record;

use crate::backup::Backup;
use crate::begin::Depth;
use crate::{Outcome, Point, VaultError};
use write::DiskStack;

/// Sealed size of a `points` object without its body.
const RECORD_OVERHEAD: u64 = (HEADER_LEN + FOOTER_LEN + 2 * TAG_LEN) as u64;
const SIGNATURE_LEN: u64 = 64;

/// A backup whose data and deltas are durable and checked: one object is missing to make it a point.
#[derive(Debug)]
pub struct Prepared {
    backup: Backup,
    record: record::Point,
    point: Point,
}

impl Prepared {
    /// The point that it will be.
    #[must_use]
    pub fn point(&self) -> &Point {
        &self.point
    }

    /// Creates the point, unless the backup was concluded otherwise. Trying again after an error is safe.
    pub async fn commit(&self) -> Result<Point, VaultError> {
        let shared = &self.backup.shared;
        let body = shared.vault.inner.signer.sign(&self.record);
        match shared.vault.decide(shared.request.machine, shared.opened.seq, Kind::Point, &body).await? {
            Outcome::Point(point) if point.hash == self.point.hash => {
                self.backup.forget_received();
                Ok(point)
            }
            Outcome::Point(_) => Err(VaultError::Aborted {
                seq: shared.opened.seq,
                reason: "another point took its place".to_owned(),
            }),
            Outcome::Aborted { reason } => Err(VaultError::Aborted { seq: shared.opened.seq, reason }),
        }
    }
}

impl Backup {
    /// Writes the deltas and checks that the point would restore. Nothing can be pushed after this.
    ///
    /// `read_bytes`: by disk, what the agent read.
    pub async fn prepare(&self, read_bytes: &[(String, u64)]) -> Result<Prepared, VaultError> {
        self.close();
        let stacks = write::write_deltas(&self.shared).await?;
        self.flush().await?;
        let record = self.record(stacks, read_bytes);
        let point = Point::from_record(record.clone());
        self.shared.vault.check_structure(&point, Depth::Roots).await?;
        Ok(Prepared { backup: self.clone(), record, point })
    }

    fn record(&self, stacks: Vec<DiskStack>, read_bytes: &[(String, u64)]) -> record::Point {
        let request = &self.shared.request;
        let state = self.state();
        let disks = request.disks.iter().zip(stacks).zip(&state.disks).map(|((spec, stack), disk)| {
            record::PointDisk {
                name: spec.name.clone(),
                size_bytes: spec.size_bytes,
                read_bytes: read_bytes
                    .iter()
                    .find(|(name, _)| *name == spec.name)
                    .map_or(0, |(_, bytes)| *bytes),
                changed_bytes: stack.changed_bytes.min(spec.size_bytes),
                sent_bytes: disk.sent_bytes,
                stored_bytes: disk.cell_bytes,
                stack: stack.deltas,
            }
        });
        let mut record = record::Point {
            id: Uuid::now_v7(),
            machine: request.machine,
            machine_name: request.machine_name.clone(),
            seq: self.shared.opened.seq,
            created_at: Utc::now().timestamp_micros(),
            taken_at: request.taken_at.timestamp_micros(),
            consistency: request.consistency,
            snapshot: request.snapshot_id,
            step: request.step_id,
            attempt: request.attempt,
            previous: self.shared.opened.previous,
            disks: disks.collect(),
        };
        let segments: u64 = state.segments.iter().map(|segment| segment.size).sum();
        let records =
            self.shared.opened.open_bytes + RECORD_OVERHEAD + record.encode().len() as u64 + SIGNATURE_LEN;
        share_metadata(&mut record.disks, segments + records);
        record
    }
}

/// Gives each disk its share of what is not cells, by its cells; what does not divide goes to the first.
fn share_metadata(disks: &mut [record::PointDisk], total: u64) {
    let cells: u64 = disks.iter().map(|disk| disk.stored_bytes).sum();
    let metadata = total.saturating_sub(cells);
    let count = disks.len().max(1) as u64;
    let mut left = metadata;
    for disk in disks.iter_mut() {
        let share = if cells == 0 {
            metadata / count
        } else {
            u64::try_from(u128::from(metadata) * u128::from(disk.stored_bytes) / u128::from(cells))
                .unwrap_or(0)
        };
        disk.stored_bytes += share;
        left = left.saturating_sub(share);
    }
    if let Some(first) = disks.first_mut() {
        first.stored_bytes += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What disks with so many bytes of cells come to when so many bytes were stored for all of them.
    fn shared<const N: usize>(cells: [u64; N], total: u64) -> [u64; N] {
        let mut disks = cells.map(|stored_bytes| record::PointDisk {
            name: String::new(),
            size_bytes: 0,
            read_bytes: 0,
            changed_bytes: 0,
            sent_bytes: 0,
            stored_bytes,
            stack: Vec::new(),
        });
        share_metadata(&mut disks, total);
        disks.map(|disk| disk.stored_bytes)
    }

    #[test]
    fn disks_share_what_is_not_cells() {
        assert_eq!(shared([100, 300], 1000), [250, 750], "by their cells");
        assert_eq!(shared([1, 1, 1], 13), [5, 4, 4], "what does not divide goes to the first");
        assert_eq!(shared([0, 7], 10), [0, 10]);
        assert_eq!(shared([0, 0], 11), [6, 5], "evenly without cells");
        assert_eq!(shared([100, 300], 400), [100, 300]);
        assert_eq!(shared([100, 300], 399), [100, 300], "never less than the cells");
        assert_eq!(shared([], 10), [0; 0]);
    }
}
