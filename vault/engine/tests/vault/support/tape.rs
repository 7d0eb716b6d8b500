//! What has reached a device at chosen moments, each as what changed since the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::SeekFrom;

/// Divides the length of every device.
const CHUNK: usize = 16 << 10;

/// Chunks of a device by their places; those that are missing are holes.
type Chunks = BTreeMap<u64, Vec<u8>>;

pub(crate) struct Tape {
    device: File,
    now: Chunks,
    moments: Vec<Chunks>,
}

impl Tape {
    /// Of the file behind a loop device.
    pub(crate) fn of(backing: &Path) -> Self {
        Self { device: File::open(backing).unwrap(), now: Chunks::new(), moments: Vec::new() }
    }

    /// Notes the device as it is now.
    pub(crate) fn note(&mut self) {
        let mut changed = Chunks::new();
        loop {
            let since = self.changed();
            // What was read while something was written may never have been on the device together.
            if since.is_empty() {
                break;
            }
            changed.extend(since);
        }
        self.moments.push(changed);
    }

    /// The device as it was at one of the moments.
    pub(crate) fn write(&self, moment: usize, path: &Path) {
        let mut whole: BTreeMap<u64, &[u8]> = BTreeMap::new();
        for changed in &self.moments[..=moment] {
            whole.extend(changed.iter().map(|(at, chunk)| (*at, &chunk[..])));
        }
        let file = File::create(path).unwrap();
        file.set_len(self.device.metadata().unwrap().len()).unwrap();
        for (at, chunk) in whole {
            file.write_all_at(chunk, at).unwrap();
        }
    }

    fn changed(&mut self) -> Chunks {
        let mut changed = Chunks::new();
        let mut seen = BTreeSet::new();
        let mut at = 0;
        // The end of the file counts as a hole; behind the last data there is none.
        while let Ok(data) = rustix::fs::seek(&self.device, SeekFrom::Data(at)) {
            let hole = rustix::fs::seek(&self.device, SeekFrom::Hole(data)).unwrap();
            for place in (data - data % CHUNK as u64..hole).step_by(CHUNK) {
                let mut chunk = vec![0; CHUNK];
                self.device.read_exact_at(&mut chunk, place).unwrap();
                seen.insert(place);
                if self.now.get(&place) != Some(&chunk) {
                    changed.insert(place, chunk);
                }
            }
            at = hole;
        }
        for (place, chunk) in &self.now {
            if !seen.contains(place) && chunk.iter().any(|byte| *byte != 0) {
                changed.insert(*place, vec![0; chunk.len()]);
            }
        }
        self.now.extend(changed.clone());
        changed
    }
}
