//! Verification of the vault; the catalogue is told what is damaged, and what is whole.

use tokio::sync::mpsc;
use tonic::Status;
use tracing::{error, info};

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{VerifyDepth, VerifyProgress, VerifyReport, VerifyScope};

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
        actor: &str,
        progress: mpsc::Sender<VerifyProgress>,
    ) -> Result<VerifyReport, Status> {
        let inner = &self.inner;
        let Ok(_only) = inner.verifying.try_lock() else {
            return Err(busy("a verification runs already"));
        };
        let scope = match target {
            VerifyTarget::Vault => VerifyScope::Vault,
            VerifyTarget::Machine(machine) => VerifyScope::Machine(machine.0),
            VerifyTarget::Point(point) => VerifyScope::Point(point.machine.0, point.seq),
        };
        let tell = move |so_far| {
            let _ = progress.try_send(so_far);
        };
        let report = inner.vault.verify(scope, depth, tell).await.map_err(|error| status_of(&error))?;
        VERIFIED_BYTES.add(usize::try_from(report.read_bytes).unwrap_or(usize::MAX));
        for (machine, sound) in &report.sound {
            let damaged: Vec<(u64, String)> = report
                .findings
                .iter()
                .filter(|finding| finding.machine == *machine)
                .filter_map(|finding| Some((finding.point.as_ref()?.seq, finding.reason.clone())))
                .collect();
            for (seq, reason) in &damaged {
                error!(%machine, seq, reason, "a point is damaged");
            }
            DAMAGED_POINTS.add(damaged.len());
            let sound =
                if depth == VerifyDepth::ReadData { sound.iter().copied().collect() } else { Vec::new() };
            let machine = MachineId(*machine);
            let verified = Verified { machine, damaged, sound, actor: actor.to_owned() };
            within(inner.authority.record_verified(&verified)).await?;
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
}
