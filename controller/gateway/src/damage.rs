//! Damage is found in one point; others may need the same bytes.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tonic::Status;
use tracing::{error, warn};

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::SegmentId;

use crate::error::status_of;
use crate::retry::within;
use crate::{Gateway, PointLocation};

/// A storage that hangs must not keep what else is found waiting.
const LIMIT: Duration = Duration::from_secs(3600);

impl Gateway {
    /// Marks every point of a machine that needs what is damaged in these segments: those that nobody read, and those that were
    /// committed since the damage was looked for. The next backup is built on none of them. `marked` are so already.
    ///
    /// A point that appears meanwhile may be built on one that was not marked yet; on one that is, none is listed as whole. So it is
    /// looked again until nothing is left to mark.
    pub(crate) async fn spread_damage(
        &self,
        machine: MachineId,
        segments: &BTreeSet<SegmentId>,
        mut marked: BTreeSet<u64>,
    ) -> Result<(), Status> {
        self.inner.damages.fetch_add(1, Ordering::AcqRel);
        loop {
            let found = self.inner.vault.points_damaged_by(machine.0, segments).await;
            let mut found = found.map_err(|error| status_of(&error))?;
            found.retain(|(seq, _)| marked.insert(*seq));
            if found.is_empty() {
                return Ok(());
            }
            for (seq, reason) in found {
                error!(%machine, seq, reason, "a point is damaged");
                within(self.inner.authority.mark_damaged(PointLocation { machine, seq }, &reason)).await?;
            }
        }
    }

    /// The same of a segment in which a restore met damage, while the operator is told of that.
    pub(crate) fn spread_damage_later(&self, point: PointLocation, segment: SegmentId) {
        self.inner.damages.fetch_add(1, Ordering::AcqRel);
        // A restore that is tried again and again finds the same.
        if !self.spread().insert(segment) {
            return;
        }
        let gateway = self.clone();
        tokio::spawn(async move {
            // One after the other: each reads a segment, and where the blocks of all points are.
            let _only = gateway.inner.spreading.lock().await;
            let segments = BTreeSet::from([segment]);
            for machine in BTreeSet::from([point.machine.0, segment.machine()]).into_iter().map(MachineId) {
                let marked = (machine == point.machine).then_some(point.seq).into_iter().collect();
                let spread = tokio::time::timeout(LIMIT, gateway.spread_damage(machine, &segments, marked));
                let reason = match spread.await {
                    Ok(Ok(())) => continue,
                    Ok(Err(status)) => status.message().to_owned(),
                    Err(_) => format!("it took more than {LIMIT:?}"),
                };
                warn!(%machine, reason, "not looked for what else is damaged: the next verification will");
            }
            gateway.spread().remove(&segment);
        });
    }

    fn spread(&self) -> MutexGuard<'_, HashSet<SegmentId>> {
        self.inner.spread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
