//! Which objects a point needs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use holdfast_vault_format::delta::DeltaRoot;
use holdfast_vault_format::record::DeltaRef;

use crate::delta::segments_needed;
use crate::name;
use crate::segment_id::{AnyGeneration, SegmentId};

/// What a point is restored from with nothing but the vault and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Names of objects of which there is one.
    objects: BTreeSet<String>,
    /// Each in some generation.
    segments: BTreeSet<AnyGeneration>,
}

impl Needs {
    /// The point itself, so many events about it, and what every point needs: the header and the keys of these names.
    pub(super) fn new(machine: Uuid, seq: u64, events: u32, keys: impl IntoIterator<Item = String>) -> Self {
        let mut objects: BTreeSet<String> = keys.into_iter().collect();
        objects.insert(name::HEADER.to_owned());
        objects.insert(name::point(machine, seq));
        objects.extend((1..=events).map(|number| name::event(machine, seq, number)));
        Self { objects, segments: BTreeSet::new() }
    }

    pub(super) fn add_delta(&mut self, machine: Uuid, delta: &DeltaRef, root: &DeltaRoot) {
        self.segments.extend(segments_needed(machine, delta, root));
    }

    /// The backups that its segments are of.
    pub(super) fn backups(&self) -> BTreeSet<(Uuid, u64)> {
        self.segments.iter().map(|(machine, seq, _)| (*machine, *seq)).collect()
    }

    /// The names of all of it, given the segments that there are: of each every generation, since a reader takes any. An error names
    /// one that is missing.
    pub(super) fn names(&self, there: &[SegmentId]) -> Result<BTreeSet<String>, SegmentId> {
        let mut generations: BTreeMap<AnyGeneration, Vec<String>> = BTreeMap::new();
        for segment in there {
            generations.entry(segment.any_generation()).or_default().push(segment.name());
        }
        let mut names = self.objects.clone();
        for segment in &self.segments {
            let (machine, seq, number) = *segment;
            let missing = SegmentId { machine, seq, number, generation: 0 };
            names.extend(generations.remove(segment).ok_or(missing)?);
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_vault_format::delta::{MetaPlace, PageRef, SegmentRef};

    use super::*;

    fn id(machine: u128, seq: u64, number: u32, generation: u32) -> SegmentId {
        SegmentId { machine: Uuid::from_u128(machine), seq, number, generation }
    }

    #[test]
    fn everything_that_a_restore_reads_is_named() {
        let (own, lender) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut needs = Needs::new(own, 7, 2, ["keys/k".to_owned()]);
        let named = |lender, seq, number| SegmentRef { lender, seq, number, generation: 0, root: [0; 32] };
        let page = |segment| PageRef {
            first_block: 0,
            end_block: 1,
            place: MetaPlace { segment, cell: 0 },
            hash: [0; 32],
        };
        let root = DeltaRoot {
            size_bytes: 4096,
            extents: 1,
            segments: vec![named(None, 5, 3), named(Some(lender), 4, 0)],
            extent_pages: vec![page(1)],
            hash_pages: vec![page(2)],
        };
        let delta = DeltaRef { seq: 6, hash: [0; 32], parts: vec![MetaPlace { segment: 0, cell: 9 }] };
        needs.add_delta(own, &delta, &root);
        assert_eq!(needs.backups(), BTreeSet::from([(own, 5), (own, 6), (lender, 4)]));
        let mut there = vec![
            id(1, 6, 0, 0),
            id(1, 6, 1, 0),
            id(1, 6, 2, 0),
            id(1, 6, 8, 0),
            id(1, 5, 3, 1),
            id(1, 5, 3, 2),
            id(1, 4, 0, 0),
        ];
        assert_eq!(needs.names(&there), Err(id(2, 4, 0, 0)));
        there.push(id(2, 4, 0, 0));
        let mut expected = BTreeSet::from([
            "vault.json".to_owned(),
            "keys/k".to_owned(),
            name::point(own, 7),
            name::event(own, 7, 1),
            name::event(own, 7, 2),
        ]);
        for segment in
            [id(1, 6, 0, 0), id(1, 6, 1, 0), id(1, 6, 2, 0), id(1, 5, 3, 1), id(1, 5, 3, 2), id(2, 4, 0, 0)]
        {
            expected.insert(segment.name());
        }
        assert_eq!(needs.names(&there).unwrap(), expected);
    }
}
