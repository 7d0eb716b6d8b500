//! Verification of the vault; the catalogue is told what is damaged, and what is whole.

use tokio::sync::mpsc;
use tonic::Status;
use tracing::{error, info};

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{VerifyDepth, VerifyPace, VerifyProgress, VerifyReport, VerifyScope};

use crate::error::{busy, status_of};
use crate::metrics::{DAMAGED_POINTS, VERIFIED_BYTES};
use crate::retry::within;
use crate::{Gateway, PointLocation};

/// What is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyTarget {
    Vault,
    Machine(MachineId),
    Point(PointLocation),
}

/// What a verification found out about a machine's points.
#[derive(Clone, Debug)]
pub struct Verified {
    pub machine: MachineId,
    /// Sequence numbers, and what is wrong.
    pub damaged: Vec<(u64, String)>,
    /// Every byte that these need was read.
    pub sound: Vec<u64>,
    pub actor: String,
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
        pace: VerifyPace,
        actor: &str,
        progress: mpsc::Sender<VerifyProgress>,
    ) -> Result<VerifyReport, Status> {
        let inner = &self.inner;
        // The schedule's takes its time, and keeps no operator waiting.
        let _only = match (pace, inner.verifying.try_lock()) {
            (VerifyPace::Full, Err(_)) => return Err(busy("a verification runs already")),
            (VerifyPace::Full, Ok(only)) => Some(only),
            (VerifyPace::Gentle, _) => None,
        };
        let failed = |error| status_of(&error);
        let scopes = match target {
            VerifyTarget::Vault => {
                // In an empty folder nothing is damaged.
                inner.vault.check_present().await.map_err(failed)?;
                let machines = inner.vault.machines().await.map_err(failed)?;
                machines.into_iter().map(VerifyScope::Machine).collect()
            }
            VerifyTarget::Machine(machine) => vec![VerifyScope::Machine(machine.0)],
            VerifyTarget::Point(point) => vec![VerifyScope::Point(point.machine.0, point.seq)],
        };
        let (machines, mut report) = (scopes.len(), VerifyReport::default());
        // One after the other: what was found out counts, also if somebody ends the check.
        for (done, scope) in scopes.into_iter().enumerate() {
            let before = report.read_bytes;
            let tell = |so_far: VerifyProgress| {
                let read_bytes = before + so_far.read_bytes;
                let _ =
                    progress.try_send(VerifyProgress { machines_done: done, machines, read_bytes, ..so_far });
            };
            let found = inner.vault.verify(scope, depth, pace, tell).await.map_err(failed)?;
            // What was unmounted meanwhile is neither damaged nor lost.
            inner.vault.check_present().await.map_err(failed)?;
            VERIFIED_BYTES.add(usize::try_from(found.read_bytes).unwrap_or(usize::MAX));
            self.record_verified(&found, depth, actor).await?;
            report.merge(found);
        }
        info!(
            points = report.points,
            segments = report.read_segments,
            bytes = report.read_bytes,
            findings = report.findings.len(),
            "verified"
        );
        Ok(report)
    }

    async fn record_verified(
        &self,
        report: &VerifyReport,
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
            let sound =
                if depth == VerifyDepth::ReadData { sound.iter().copied().collect() } else { Vec::new() };
            let machine = MachineId(*machine);
            let verified = Verified { machine, damaged, sound, actor: actor.to_owned() };
            within(self.inner.authority.record_verified(&verified)).await?;
        }
        Ok(())
    }
}
