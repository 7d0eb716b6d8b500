//! One claim of one step: what every report is about.

use std::fmt;

use holdfast_proto::ids::StepId;
use holdfast_proto::v1::StepAttempt;

/// A step and the number of the claim; a later claim has a higher number and fences this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) step: StepId,
    pub(crate) number: i64,
}

impl Attempt {
    /// Reads an attempt from a message; `None` if it is missing or malformed.
    pub(crate) fn from_wire(wire: Option<&StepAttempt>) -> Option<Self> {
        let wire = wire?;
        let step = wire.step_id.parse().ok()?;
        (wire.attempt >= 1).then_some(Self { step, number: wire.attempt })
    }

    pub(crate) fn to_wire(self) -> StepAttempt {
        StepAttempt { step_id: self.step.to_string(), attempt: self.number }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.step, self.number)
    }
}
