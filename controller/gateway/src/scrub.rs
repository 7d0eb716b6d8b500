//! The scrub: everything is read again in its time, one machine after the other, a part at a time.

use std::time::Duration;

use tonic::Status;

use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::{SegmentId, Verification, VerifyDepth, VerifyPace, VerifyScope};

use crate::Gateway;

/// Reads machines, slowly. A segment that was whole when it was read for one of them is not read for the next one that needs it, for a
/// while.
#[derive(Debug)]
pub struct Scrub {
    gateway: Gateway,
    verification: Verification,
    remember: Duration,
}

impl Gateway {
    /// Begins one that remembers for so long what it read.
    #[must_use]
    pub fn scrub(&self, remember: Duration) -> Scrub {
        let verification = self.inner.vault.verification(VerifyPace::Gentle);
        Scrub { gateway: self.clone(), verification, remember }
    }
}

impl Scrub {
    /// Reads so many segments of what a machine's points need, those that come after the one with this name, and tells the catalogue
    /// what it found. A machine with a point that is called damaged is read whole. Dropped at any point it changes nothing.
    ///
    /// Returns the name of the last one that it read, if others come after it.
    ///
    /// # Errors
    /// UNAVAILABLE if vault or catalogue do not answer. Damage is no error.
    pub async fn read_part(
        &mut self,
        machine: MachineId,
        after: Option<&str>,
        segments: usize,
    ) -> Result<Option<String>, Status> {
        let depth = VerifyDepth::Part { after: after.and_then(SegmentId::of_name), segments };
        self.verification.renew(self.remember);
        let of = (machine.0, VerifyScope::Machine(machine.0));
        let verified = self.gateway.verify_machine(&mut self.verification, of, depth, "schedule", |_| {});
        Ok(verified.await?.read_to.map(|id| id.name()))
    }
}
