use object_store::path::Path;
use uuid::Uuid;

use holdfast_vault_format::collection::CondemnedSegment;
use holdfast_vault_format::delta::SegmentRef;

use crate::name;

/// A segment, whatever its generation: machine, backup, number.
pub(crate) type AnyGeneration = (Uuid, u64, u32);

/// Which segment: backup, number, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    pub(crate) machine: Uuid,
    pub(crate) seq: u64,
    pub(crate) number: u32,
    pub(crate) generation: u32,
}

impl SegmentId {
    /// A segment that a delta of this machine names.
    pub(crate) fn named(machine: Uuid, named: &SegmentRef) -> Self {
        let SegmentRef { lender, seq, number, generation, .. } = *named;
        Self { machine: lender.unwrap_or(machine), seq, number, generation }
    }

    /// The one that an object's name names.
    #[must_use]
    pub fn of_name(object: &str) -> Option<Self> {
        let path = Path::from(object);
        let machine = path.parts().nth(1)?.as_ref().parse().ok()?;
        let (number, generation) = name::segment_of(&path).filter(|_| name::is_segment(object))?;
        Some(Self { machine, seq: name::seq_folder_of(&path)?, number, generation })
    }

    /// Whose backup wrote it.
    #[must_use]
    pub fn machine(&self) -> Uuid {
        self.machine
    }

    pub(crate) fn any_generation(&self) -> AnyGeneration {
        (self.machine, self.seq, self.number)
    }

    /// Of its object.
    #[must_use]
    pub fn name(&self) -> String {
        name::segment(self.machine, self.seq, self.number, self.generation)
    }
}

impl From<CondemnedSegment> for SegmentId {
    fn from(CondemnedSegment { machine, seq, number, generation }: CondemnedSegment) -> Self {
        Self { machine, seq, number, generation }
    }
}

impl From<SegmentId> for CondemnedSegment {
    fn from(SegmentId { machine, seq, number, generation }: SegmentId) -> Self {
        Self { machine, seq, number, generation }
    }
}
