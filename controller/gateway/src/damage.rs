//! Damage is found in one point; others may need the same bytes.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tonic::{Code, Status};
use tracing::{error, warn};
use uuid::Uuid;

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{SegmentId, VerifyScope};

use crate::error::status_of;
use crate::retry::within;
use crate::{Gateway, PointLocation};

/// How often it is looked again for points that appeared meanwhile.
const LOOKS: usize = 5;

/// A storage that hangs must not keep what else is found waiting.
const LIMIT: Duration = Duration::from_secs(3600);

impl Gateway {
    /// Marks every point of a machine that needs what is damaged in these segments: those that nobody read, and those that were
    /// committed since the damage was looked for. The next backup is built on none of them. `marked` are so already.
    ///
    /// A point that appears meanwhile may be built on one that was not marked yet; one that the catalogue does not have yet, since the
    /// gateway that made it died or hangs, is recorded first. So it is looked again until nothing is left to mark.
    pub(crate) async fn spread_damage(
        &self,
        machine: MachineId,
        segments: &BTreeSet<SegmentId>,
        mut marked: BTreeSet<u64>,
    ) -> Result<(), Status> {
        self.inner.damages.fetch_add(1, Ordering::AcqRel);
        for _ in 0..LOOKS {
            let found = self.inner.vault.points_damaged_by(machine.0, segments).await;
            let mut found = found.map_err(|error| status_of(&error))?;
            found.retain(|(seq, _)| !marked.contains(seq));
            if found.is_empty() {
                return Ok(());
            }
            let mut is_absent = false;
            for (seq, reason) in found {
                error!(%machine, seq, reason, "a point is damaged");
                let location = PointLocation { machine, seq };
                match within(self.inner.authority.mark_damaged(location, &reason)).await {
                    Ok(true) => drop(marked.insert(seq)),
                    Ok(false) => is_absent = true,
                    Err(status) if status.code() == Code::NotFound => {
                        self.tell_of_stranger(machine.0);
                        return Ok(());
                    }
                    Err(status) => return Err(status),
                }
            }
            if is_absent && let Err(status) = self.resolve_machine(machine.0).await {
                warn!(%machine, reason = status.message(), "a point that is there is not recorded yet");
            }
        }
        warn!(%machine, "maybe not all that is damaged is marked: the next verification looks again");
        Ok(())
    }

    /// The same of the machines whose segments these are, if they are others than the one of which they were read: what is the matter with
    /// them is no trouble of that one.
    pub(crate) async fn spread_to_owners(&self, of: Uuid, segments: &BTreeSet<SegmentId>) {
        let owners: BTreeSet<Uuid> = segments.iter().map(|segment| segment.machine()).collect();
        for owner in owners.into_iter().filter(|owner| *owner != of) {
            let spread = async {
                let kept = self.kept(owner, VerifyScope::Machine(owner)).await?;
                let marked = kept.iter().filter(|point| point.is_damaged).map(|point| point.seq).collect();
                self.spread_damage(MachineId(owner), segments, marked).await
            };
            if let Err(status) = spread.await {
                not_looked(MachineId(owner), status.message());
            }
        }
    }

    /// The same of a segment in which a restore of a machine met damage, while the operator is told of that.
    pub(crate) fn spread_damage_later(&self, machine: MachineId, marked: Option<u64>, segment: SegmentId) {
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
            for of in BTreeSet::from([machine.0, segment.machine()]).into_iter().map(MachineId) {
                let marked = marked.filter(|_| of == machine).into_iter().collect();
                let spread = tokio::time::timeout(LIMIT, gateway.spread_damage(of, &segments, marked));
                let reason = match spread.await {
                    Ok(Ok(())) => continue,
                    Ok(Err(status)) => status.message().to_owned(),
                    Err(_) => format!("it took more than {LIMIT:?}"),
                };
                not_looked(of, &reason);
            }
            gateway.spread().remove(&segment);
        });
    }

    fn spread(&self) -> MutexGuard<'_, HashSet<SegmentId>> {
        self.inner.spread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_looked(machine: MachineId, reason: &str) {
    warn!(%machine, reason, "not looked for what else is damaged: the next verification will");
}
