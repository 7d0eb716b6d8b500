//! The scrub: everything is read again in its time, one machine after the other, a part at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tonic::Status;
use tracing::{info, warn};

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{SegmentId, Verification, VerifyDepth, VerifyPace, VerifyReport, VerifyScope};

use crate::Gateway;
use crate::error::status_of;

const ACTOR: &str = "schedule";

/// Reads machines, slowly. A segment that was whole when it was read for one of them is not read for the next one that needs it, for a
/// while, unless damage is found anywhere.
#[derive(Debug)]
pub struct Scrub {
    gateway: Gateway,
    verification: Verification,
    /// How often damage had been found when that began.
    damages: u64,
    remember: Duration,
    /// The machine of which all parts were read, one after the other since the first, and its points that were found damaged in them.
    turn: Option<(MachineId, BTreeSet<u64>)>,
}

impl Gateway {
    /// Begins one that remembers for so long what it read.
    #[must_use]
    pub fn scrub(&self, remember: Duration) -> Scrub {
        Scrub {
            gateway: self.clone(),
            verification: self.inner.vault.verification(VerifyPace::Gentle),
            damages: self.inner.damages.load(Ordering::Acquire),
            remember,
            turn: None,
        }
    }
}

impl Scrub {
    /// Reads about a sixteenth of the segments that a machine's points need, those that come after the one with this name, and tells
    /// the catalogue what is damaged. Dropped at any point it changes nothing.
    ///
    /// Returns the name of the last one that it read, if others come after it.
    ///
    /// # Errors
    /// UNAVAILABLE if vault or catalogue do not answer. Damage is no error.
    pub async fn read_part(
        &mut self,
        machine: MachineId,
        after: Option<&str>,
    ) -> Result<Option<String>, Status> {
        let after = after.and_then(SegmentId::of_name);
        let scope = VerifyScope::Machine(machine.0);
        let damages = self.gateway.inner.damages.load(Ordering::Acquire);
        self.verification.renew(self.remember);
        if damages != std::mem::replace(&mut self.damages, damages) {
            self.verification = self.verification.anew();
        }
        if after.is_none() {
            self.turn = Some((machine, BTreeSet::new()));
        }
        let kept = self.gateway.kept(machine.0, scope).await?;
        let (mut found, read_to) =
            self.verification.verify_part(machine.0, after).await.map_err(|error| status_of(&error))?;
        // A part: nothing is called sound for it.
        let depth = VerifyDepth::Structure;
        self.gateway.record_found(machine.0, scope, &kept, &mut found, depth, ACTOR).await?;
        tell(machine, &found, "a part");
        self.turn = self.turn.take().filter(|(of, _)| *of == machine);
        if let Some((_, damaged)) = &mut self.turn {
            damaged.extend(found.damaged.get(&machine.0).into_iter().flat_map(BTreeMap::keys));
        }
        Ok(read_to.map(|id| id.name()))
    }

    /// Reads once more, and all at once, a machine of which points are called damaged that were whole in every part now: then they are
    /// sound.
    ///
    /// # Errors
    /// As [`Self::read_part`].
    pub async fn confirm(&mut self, machine: MachineId) -> Result<(), Status> {
        let scope = VerifyScope::Machine(machine.0);
        let kept = self.gateway.kept(machine.0, scope).await?;
        let Some((_, damaged)) = self.turn.take().filter(|(of, _)| *of == machine) else { return Ok(()) };
        if !kept.iter().any(|point| point.is_damaged && !damaged.contains(&point.seq)) {
            return Ok(());
        }
        let depth = VerifyDepth::ReadData;
        let read = self.verification.anew().verify(scope, depth, |_| {}).await;
        let mut found = read.map_err(|error| status_of(&error))?;
        self.gateway.record_found(machine.0, scope, &kept, &mut found, depth, ACTOR).await?;
        tell(machine, &found, "all");
        Ok(())
    }
}

/// What is damaged of points is told where it is recorded.
fn tell(machine: MachineId, found: &VerifyReport, what: &str) {
    for finding in found.findings.iter().filter(|finding| finding.point.is_none()) {
        warn!(%machine, reason = finding.reason, "something is damaged that no restore needs");
    }
    let (segments, bytes) = (found.read_segments, found.read_bytes);
    info!(%machine, what, segments, bytes, findings = found.found(), "verified");
}
