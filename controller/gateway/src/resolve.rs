//! Looks for open ends: commits without a recorded outcome, backups that nobody works on any more, points that the catalogue
//! does not have. Idempotent; any number of gateways may do it at once, since the vault's names decide.

use std::sync::PoisonError;

use tonic::{Code, Status};
use tracing::{error, info, warn};
use uuid::Uuid;

use holdfast_proto::ids::{MachineId, StepId};
use holdfast_vault_engine::{Backups, Outcome, Point, VaultError, chain};

use crate::error::status_of;
use crate::retry::within;
use crate::{Gateway, PointLocation, UnsettledCommit};

impl Gateway {
    /// One pass.
    ///
    /// # Errors
    /// If vault or catalogue do not answer: what was settled until then stays settled.
    pub async fn resolve(&self) -> Result<(), Status> {
        let commits = within(self.inner.authority.unsettled_commits()).await;
        for commit in commits.as_deref().unwrap_or_default() {
            if let Err(status) = self.settle(commit).await {
                warn!(machine = %commit.machine, seq = commit.seq, reason = status.message(), "a commit is not settled");
            }
        }
        for machine in self.inner.vault.machines().await.map_err(|error| status_of(&error))? {
            match self.resolve_machine(machine).await {
                Err(status) if status.code() == Code::NotFound => self.tell_of_stranger(machine),
                Err(status) => {
                    warn!(%machine, reason = status.message(), "a machine's open ends are not settled");
                }
                Ok(()) => {}
            }
        }
        if let Err(error) = self.inner.vault.finish_claims().await {
            warn!(reason = chain(&error), "what was claimed long ago is not stored");
        }
        commits.map(|_| ())
    }

    /// Such as of one that was enrolled since the dump from which the catalogue was put back. Said once.
    pub(crate) fn tell_of_stranger(&self, machine: Uuid) {
        if self.inner.strangers.lock().unwrap_or_else(PoisonError::into_inner).insert(machine) {
            error!(
                %machine,
                "the vault has points of a machine that the catalogue does not know: \
                 `holdfast vault rebuild-catalogue` lists them"
            );
        }
    }

    async fn settle(&self, commit: &UnsettledCommit) -> Result<(), Status> {
        let UnsettledCommit { machine, step, attempt, seq } = *commit;
        if self.inner.transfers.is_committing(machine, seq) {
            return Ok(());
        }
        match self.inner.vault.conclude(machine.0, seq, "its gateway did not finish the commit").await {
            Ok(Outcome::Point(point)) => {
                self.record(&point).await?;
                info!(%machine, seq, "a commit had succeeded");
            }
            Ok(Outcome::Aborted { .. }) => {
                within(self.inner.authority.commit_aborted(step, attempt, seq)).await?;
                info!(%machine, seq, "a commit had not happened");
            }
            Err(error) if error.is_damage() => {
                // Whatever it was, it restores nothing: the job must not wait for it for ever.
                warn!(%machine, seq, reason = chain(&error), "what a commit left is damaged: the attempt is lost");
                within(self.inner.authority.commit_aborted(step, attempt, seq)).await?;
            }
            Err(error) => return Err(status_of(&error)),
        }
        Ok(())
    }

    pub(crate) async fn resolve_machine(&self, machine: Uuid) -> Result<(), Status> {
        let vault = &self.inner.vault;
        let failed = |error: VaultError| status_of(&error);
        let backups = vault.backups(machine).await.map_err(failed)?;
        let Backups { unconcluded, decisions, .. } = &backups;
        let kept = match unconcluded.is_empty() {
            true => Vec::new(),
            false => within(self.inner.authority.kept_points(MachineId(machine))).await?,
        };
        for open in unconcluded {
            // It was a point, and the storage lost it: an abort in its place would let go what it needs if it is put back.
            if kept.iter().any(|point| point.seq == open.seq) {
                continue;
            }
            if within(self.inner.authority.is_live(StepId(open.step_id), open.attempt)).await? {
                continue;
            }
            if let Some(transfer) = self.inner.transfers.get(MachineId(machine))
                && transfer.backup.seq() == open.seq
            {
                self.inner.transfers.remove(&transfer);
            }
            match vault.conclude(machine, open.seq, "its attempt is over").await.map_err(failed)? {
                Outcome::Point(point) => self.record(&point).await?,
                Outcome::Aborted { .. } => info!(%machine, seq = open.seq, "a dead backup is concluded"),
            }
        }
        let known = within(self.inner.authority.known_points(MachineId(machine))).await?;
        for (&seq, &decisions) in decisions {
            if known.get(&seq).is_some_and(|known| *known >= decisions) {
                continue;
            }
            let location = PointLocation { machine: MachineId(machine), seq };
            let resolved = if known.contains_key(&seq) {
                self.follow_point(location).await
            } else {
                self.index(location, &backups).await
            };
            match resolved {
                // It is logged; the machine's other points are not to wait for it.
                Err(status) if status.code() == Code::DataLoss => {}
                resolved => resolved?,
            }
        }
        Ok(())
    }

    /// Takes a point into the catalogue that is not there, unless it was purged.
    async fn index(&self, location: PointLocation, backups: &Backups) -> Result<(), Status> {
        let (vault, PointLocation { machine, seq }) = (&self.inner.vault, location);
        let failed = |error: VaultError| status_of(&error);
        if !vault.has_point(machine.0, seq, backups).await.map_err(failed)? {
            return Ok(());
        }
        let Some(Outcome::Point(point)) = vault.outcome(machine.0, seq).await.map_err(failed)? else {
            return Ok(());
        };
        self.record(&point).await?;
        info!(%machine, seq, "a point that the catalogue did not have is indexed");
        let is_decided = backups.decisions.get(&seq).is_some_and(|decisions| *decisions > 0);
        if is_decided { self.follow_point(location).await } else { Ok(()) }
    }

    async fn record(&self, point: &Point) -> Result<(), Status> {
        within(self.inner.authority.record_point(point)).await
    }
}
