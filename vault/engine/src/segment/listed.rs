//! Which segments are there.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::segment_id::{AnyGeneration, SegmentId};
use crate::{Vault, VaultError, name, object};

/// Which generations of which segments are there, each backup's as it was when they were asked for first.
#[derive(Debug, Default)]
pub(crate) struct Listed(HashMap<(Uuid, u64), BTreeMap<u32, Vec<u32>>>);

impl Listed {
    /// The generations of a segment, from this one on, ascending.
    pub(crate) async fn copies(
        &mut self,
        vault: &Vault,
        id: SegmentId,
    ) -> Result<Vec<SegmentId>, VaultError> {
        let numbers = match self.0.entry((id.machine, id.seq)) {
            Entry::Occupied(listed) => listed.into_mut(),
            Entry::Vacant(entry) => entry.insert(vault.list_segments(id.machine, id.seq).await?),
        };
        let there = numbers.get(&id.number).into_iter().flatten();
        let there = there.filter(|generation| **generation >= id.generation);
        Ok(there.map(|generation| SegmentId { generation: *generation, ..id }).collect())
    }

    /// It is to be listed again.
    pub(crate) fn forget(&mut self, (machine, seq, _): AnyGeneration) {
        self.0.remove(&(machine, seq));
    }
}

impl Vault {
    /// The generations of each of a backup's segments, ascending. Remembers which were replaced.
    async fn list_segments(&self, machine: Uuid, seq: u64) -> Result<BTreeMap<u32, Vec<u32>>, VaultError> {
        let mut listed: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for path in object::list(self.store(), &format!("seg/{machine}/{seq:020}")).await? {
            if let Some((number, generation)) = name::segment_of(&path) {
                listed.entry(number).or_default().push(generation);
            }
        }
        listed.values_mut().for_each(|generations| generations.sort_unstable());
        let lowest = listed.iter().filter_map(|(number, generations)| Some((*number, *generations.first()?)));
        self.inner.replaced.put(machine, seq, lowest.filter(|(_, lowest)| *lowest > 0).collect());
        Ok(listed)
    }
}
