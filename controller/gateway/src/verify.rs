//! Verification of the vault; the catalogue is told what is damaged, and what is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tonic::Status;
use tracing::{error, info};
use uuid::Uuid;

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{
    DamagedPoint, Finding, PointState, VaultError, VerifyDepth, VerifyPace, VerifyProgress, VerifyReport,
    VerifyScope, chain,
};

use crate::error::{busy, status_of};
use crate::metrics::{DAMAGED_POINTS, VERIFIED_BYTES};
use crate::retry::within;
use crate::{Gateway, KeptPoint, PointLocation, Verified};

/// What is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyTarget {
    Vault,
    Machine(MachineId),
    Point(PointLocation),
}

impl Gateway {
    /// Verifies. Dropped at any point it changes nothing.
    ///
    /// # Errors
    /// UNAVAILABLE if this gateway verifies already, or if vault or catalogue do not answer. Damage is no error.
    pub async fn verify(
        &self,
        target: VerifyTarget,
        depth: VerifyDepth,
        actor: &str,
        progress: mpsc::Sender<VerifyProgress>,
    ) -> Result<VerifyReport, Status> {
        let inner = &self.inner;
        let _only = inner.verifying.try_lock().map_err(|_| busy("a verification runs already"))?;
        let failed = |error| status_of(&error);
        let scopes: Vec<(Uuid, VerifyScope)> = match target {
            VerifyTarget::Vault => {
                // In an empty folder nothing is damaged.
                inner.vault.check_present().await.map_err(failed)?;
                let stored = inner.vault.machines().await.map_err(failed)?;
                let catalogued = within(inner.authority.catalogued_points()).await?.into_keys();
                let machines: BTreeSet<Uuid> = stored.into_iter().chain(catalogued).collect();
                machines.into_iter().map(|machine| (machine, VerifyScope::Machine(machine))).collect()
            }
            VerifyTarget::Machine(machine) => vec![(machine.0, VerifyScope::Machine(machine.0))],
            VerifyTarget::Point(point) => {
                vec![(point.machine.0, VerifyScope::Point(point.machine.0, point.seq))]
            }
        };
        let (machines, mut report) = (scopes.len(), VerifyReport::default());
        let mut damages = inner.damages.load(Ordering::Acquire);
        let mut verification = inner.vault.verification(VerifyPace::Full);
        // One after the other: what was found out counts, also if somebody ends the check.
        for (done, (machine, scope)) in scopes.into_iter().enumerate() {
            let before = report.read_bytes;
            let tell = |so_far: VerifyProgress| {
                let read_bytes = before + so_far.read_bytes;
                let _ =
                    progress.try_send(VerifyProgress { machines_done: done, machines, read_bytes, ..so_far });
            };
            let kept = self.kept(machine, scope).await?;
            let damages_now = inner.damages.load(Ordering::Acquire);
            if damages_now != std::mem::replace(&mut damages, damages_now) {
                verification = verification.anew();
            }
            // What is called damaged is looked at anew, whatever was seen of it before: it may be called sound.
            let mut anew = None;
            let by = match kept.iter().any(|point| point.is_damaged) {
                true => anew.insert(verification.anew()),
                false => &mut verification,
            };
            let mut found = match by.verify(scope, depth, tell).await {
                // The one that was asked for: lost, if the catalogue has it.
                Err(VaultError::Missing { .. })
                    if matches!(scope, VerifyScope::Point(..)) && !kept.is_empty() =>
                {
                    let sound = BTreeMap::from([(machine, BTreeMap::new())]);
                    VerifyReport { machines: 1, sound, ..VerifyReport::default() }
                }
                verified => verified.map_err(failed)?,
            };
            self.record_found(machine, scope, &kept, &mut found, depth, actor).await?;
            report.merge(found);
        }
        info!(
            points = report.points,
            segments = report.read_segments,
            bytes = report.read_bytes,
            findings = report.found(),
            "verified"
        );
        Ok(report)
    }

    /// What the catalogue has of what is verified.
    pub(crate) async fn kept(&self, machine: Uuid, scope: VerifyScope) -> Result<Vec<KeptPoint>, Status> {
        let mut kept = within(self.inner.authority.kept_points(MachineId(machine))).await?;
        if let VerifyScope::Point(_, seq) = scope {
            kept.retain(|point| point.seq == seq);
        }
        Ok(kept)
    }

    /// Adds to what was found of one machine what only the catalogue knows, and tells it. `depth` is to what all was read: what was read in
    /// part is not called sound.
    pub(crate) async fn record_found(
        &self,
        machine: Uuid,
        scope: VerifyScope,
        kept: &[KeptPoint],
        found: &mut VerifyReport,
        depth: VerifyDepth,
        actor: &str,
    ) -> Result<(), Status> {
        // What was unmounted meanwhile, or is on a disk that gives nothing, is neither damaged nor lost.
        self.inner.vault.check_readable().await.map_err(|error| status_of(&error))?;
        self.add_lost(machine, kept, found).await?;
        if scope == VerifyScope::Machine(machine) {
            self.add_lost_decisions(machine, kept, found).await?;
        }
        VERIFIED_BYTES.add(usize::try_from(found.read_bytes).unwrap_or(usize::MAX));
        self.record_verified(found, kept, depth, actor).await?;
        if let Some(segments) = found.damaged_segments.get(&machine) {
            let damaged = found.damaged.get(&machine);
            let is_marked = |point: &&KeptPoint| damaged.is_some_and(|seqs| seqs.contains_key(&point.seq));
            let marked = kept.iter().filter(is_marked).map(|point| point.seq).collect();
            self.spread_damage(MachineId(machine), segments, marked).await?;
            self.spread_to_owners(machine, segments).await;
        }
        Ok(())
    }

    /// Adds the points of the catalogue of which the vault has nothing, or another one: it knows of that only if a later one was
    /// built on it.
    async fn add_lost(
        &self,
        machine: Uuid,
        kept: &[KeptPoint],
        found: &mut VerifyReport,
    ) -> Result<(), Status> {
        let vault = &self.inner.vault;
        for point in kept {
            let seq = point.seq;
            let sound = found.sound.get(&machine).and_then(|sound| sound.get(&seq));
            let is_damaged = found.damaged.get(&machine).is_some_and(|seqs| seqs.contains_key(&seq));
            if is_damaged || sound == Some(&point.hash) {
                continue;
            }
            // Purged, or put back, since it was looked for.
            let standing = vault.standing(machine, seq).await;
            if standing.is_ok_and(|standing| standing.state == PointState::Purged) {
                continue;
            }
            let error = match vault.remembered_point(machine, seq, &point.hash).await {
                Ok(_) => continue,
                Err(VaultError::Missing { .. }) => {
                    VaultError::Missing { object: format!("point {}", point.id) }
                }
                Err(error) if error.is_damage() => error,
                Err(error) => return Err(status_of(&error)),
            };
            let reason = chain(&error);
            if found.sound.entry(machine).or_default().remove(&seq).is_none() {
                found.points += 1;
            }
            found.damaged.entry(machine).or_default().insert(seq, reason.clone());
            let lost = DamagedPoint { seq, id: Some(point.id.0), disk: None, ranges: Vec::new() };
            let machine_name = point.machine_name.clone();
            found.add(Finding { machine, machine_name, point: Some(lost), reason });
        }
        // Where there is no vault any more, everything is missing and nothing is damaged.
        vault.check_readable().await.map_err(|error| status_of(&error))
    }

    /// Adds the points of which the vault has fewer decisions than the catalogue. They restore, but a lock may be lost.
    async fn add_lost_decisions(
        &self,
        machine: Uuid,
        kept: &[KeptPoint],
        found: &mut VerifyReport,
    ) -> Result<(), Status> {
        let stored = self.inner.vault.backups(machine).await.map_err(|error| status_of(&error))?.decisions;
        for point in kept {
            let stored = stored.get(&point.seq).copied().unwrap_or(0);
            if stored < point.decisions {
                let KeptPoint { id, decisions, .. } = point;
                found.add(Finding {
                    machine,
                    machine_name: point.machine_name.clone(),
                    point: None,
                    reason: format!("of {decisions} decisions about point {id} {stored} are left"),
                });
            }
        }
        Ok(())
    }

    async fn record_verified(
        &self,
        report: &VerifyReport,
        kept: &[KeptPoint],
        depth: VerifyDepth,
        actor: &str,
    ) -> Result<(), Status> {
        for (machine, sound) in &report.sound {
            let damaged: Vec<(u64, String)> = report
                .damaged
                .get(machine)
                .into_iter()
                .flatten()
                .map(|(seq, reason)| (*seq, reason.clone()))
                .collect();
            for (seq, reason) in &damaged {
                error!(%machine, seq, reason, "a point is damaged");
            }
            DAMAGED_POINTS.add(damaged.len());
            let is_read =
                |point: &&KeptPoint| depth == VerifyDepth::ReadData && sound.contains_key(&point.seq);
            let sound = kept.iter().filter(is_read).map(|point| (point.seq, point.damages)).collect();
            let machine = MachineId(*machine);
            let verified = Verified { machine, damaged, sound, actor: actor.to_owned() };
            within(self.inner.authority.record_verified(&verified)).await?;
        }
        Ok(())
    }
}
