//! What a disk loses, in bounds: a folder that is lost may have held tens of thousands of segments, of hundreds of points.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use holdfast_vault_format::BLOCK_SIZE;

use crate::segment_id::SegmentId;
use crate::{Point, PointDisk};

use super::DamagedPoint;

/// Ranges that are told for a disk; the last one reaches to the end of the rest.
const MAX_RANGES: usize = 1000;
/// Segments of a disk that are told one by one; what more of them hold is told together.
const APART: usize = 16;
/// Findings of a machine of which each may be of one segment.
const MAX_APART: usize = 1000;

pub(super) type Found = (Option<DamagedPoint>, String);

/// Blocks of one disk that are lost, in the order of the disk.
#[derive(Default)]
pub(super) struct Lost {
    segments: BTreeSet<SegmentId>,
    /// As long as they are few.
    apart: BTreeMap<SegmentId, Ranges>,
    all: Ranges,
}

#[derive(Default)]
struct Ranges(Vec<Range<u64>>);

impl Lost {
    pub(super) fn add(&mut self, id: SegmentId, blocks: &Range<u64>) {
        self.all.add(blocks);
        self.segments.insert(id);
        if self.segments.len() <= APART {
            self.apart.entry(id).or_default().add(blocks);
        } else {
            self.apart.clear();
        }
    }

    /// Adds what is to be told of it, with a reason for each segment.
    pub(super) fn tell(
        self,
        found: &mut Vec<Found>,
        (point, disk): (&Point, &PointDisk),
        reason: impl Fn(SegmentId) -> String,
    ) {
        let damaged = |ranges: Ranges| of_disk(point, disk, ranges.bytes(disk.size_bytes));
        if !self.apart.is_empty() && found.len() < MAX_APART {
            found.extend(self.apart.into_iter().map(|(id, ranges)| (Some(damaged(ranges)), reason(id))));
        } else if let Some(first) = self.segments.first() {
            let reason = match self.segments.len() - 1 {
                0 => reason(*first),
                more => format!("{}, and {more} more segments do not read", reason(*first)),
            };
            found.push((Some(damaged(self.all)), reason));
        }
    }
}

/// That these bytes of a disk are lost.
fn of_disk(point: &Point, disk: &PointDisk, ranges: Vec<Range<u64>>) -> DamagedPoint {
    DamagedPoint { seq: point.seq, id: Some(point.id), disk: Some(disk.name.clone()), ranges }
}

/// That a disk is lost as a whole.
pub(super) fn all_of(point: &Point, disk: &PointDisk, reason: String) -> Found {
    let all = std::iter::once(0..disk.size_bytes).collect();
    (Some(of_disk(point, disk, all)), reason)
}

impl Ranges {
    /// They come in ascending order.
    fn add(&mut self, blocks: &Range<u64>) {
        let is_full = self.0.len() >= MAX_RANGES;
        match self.0.last_mut() {
            Some(last) if is_full || blocks.start <= last.end => last.end = last.end.max(blocks.end),
            _ => self.0.push(blocks.clone()),
        }
    }

    fn bytes(self, size_bytes: u64) -> Vec<Range<u64>> {
        let byte = |block: u64| (block * BLOCK_SIZE as u64).min(size_bytes);
        self.0.into_iter().map(|blocks| byte(blocks.start)..byte(blocks.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::Consistency;

    #[test]
    fn however_much_is_lost_little_is_told() {
        let disk = PointDisk {
            name: "sda".to_owned(),
            size_bytes: 1 << 40,
            read_bytes: 0,
            changed_bytes: 0,
            sent_bytes: 0,
            stored_bytes: 0,
            stack: Vec::new(),
        };
        let point = Point {
            id: Uuid::nil(),
            machine: Uuid::nil(),
            machine_name: "web1".to_owned(),
            seq: 7,
            hash: [0; 32],
            created_at: DateTime::UNIX_EPOCH,
            taken_at: DateTime::UNIX_EPOCH,
            consistency: Consistency::Crash,
            snapshot_id: Uuid::nil(),
            step_id: Uuid::nil(),
            attempt: 1,
            previous: None,
            disks: Vec::new(),
        };
        let id = |number| SegmentId { machine: Uuid::nil(), seq: 1, number, generation: 0 };
        let tell = |found: &mut Vec<Found>, segments: u32, times: u64| {
            let mut lost = Lost::default();
            for at in 0..u64::from(segments) * times {
                lost.add(id(u32::try_from(at).unwrap() % segments), &(at * 10..at * 10 + 3));
            }
            let apart: usize = lost.apart.values().map(|ranges| ranges.0.len()).sum();
            assert!(lost.all.0.len() <= MAX_RANGES && apart <= APART * MAX_RANGES);
            lost.tell(found, (&point, &disk), |id| format!("{} is gone", id.number));
        };
        let mut found = Vec::new();
        tell(&mut found, 16, 2000);
        assert_eq!(found.len(), 16);
        let (Some(first), reason) = &found[0] else { panic!("{found:?}") };
        assert_eq!((first.seq, first.ranges.len(), &**reason), (7, MAX_RANGES, "0 is gone"));
        assert_eq!(first.ranges[1], 160 * 4096..163 * 4096);
        assert_eq!(first.ranges[MAX_RANGES - 1].end, (1999 * 160 + 3) * 4096);
        found.clear();
        tell(&mut found, 30_000, 3);
        let [(Some(all), reason)] = &*found else { panic!("{found:?}") };
        assert_eq!(all.ranges.last().unwrap().end, (89_999 * 10 + 3) * 4096);
        assert_eq!(reason, "0 is gone, and 29999 more segments do not read");
        for _ in 0..2000 {
            tell(&mut found, 16, 1);
        }
        assert!(found.len() < MAX_APART + 16 + 2000, "{}", found.len());
    }
}
