//! The scrub, a part at a time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_gateway::{PointLocation, Scrub};
use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::Samples;

use crate::bed::Bed;
use crate::image::noise;

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// Where each part of a scrub of this machine ended.
async fn scrub(scrub: &mut Scrub, machine: MachineId, mut after: Option<String>) -> Vec<Option<String>> {
    let mut parts = Vec::new();
    loop {
        after = scrub.read_part(machine, after.as_deref()).await.unwrap();
        parts.push(after.clone());
        if after.is_none() {
            return parts;
        }
    }
}

/// Which points were told to be damaged since this was asked last.
fn told(bed: &Bed) -> BTreeSet<u64> {
    let verified = std::mem::take(&mut bed.authority.script().verified);
    verified.iter().flat_map(|part| &part.damaged).map(|(seq, _)| *seq).collect()
}

fn segment(bed: &Bed, machine: MachineId, seq: u64) -> PathBuf {
    bed.root().join(format!("seg/{machine}/{seq:020}/00000000.0"))
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_reads_everything_in_parts_and_goes_on_where_another_one_ended() {
    let bed = Bed::new().await;
    let mut image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    for number in 2..=3 {
        image[..64 << 10].copy_from_slice(&noise(number, 64 << 10));
        bed.next(&agent, &[("data", &image)]).back_up(&[("data", &image)]).await;
    }
    let machine = agent.machine;
    let parts = scrub(&mut bed.gateway.scrub(HOUR), machine, None).await;
    let names: Vec<&String> = parts.iter().flatten().collect();
    // Each backup has one of data and one of deltas.
    assert!(names.len() == 5 && names.is_sorted(), "{parts:?}");
    assert_eq!(told(&bed), BTreeSet::new());

    // What is damaged in a part that was read before is not told by those that come after, and what they read is.
    for (seq, damaged) in [(1, BTreeSet::new()), (3, BTreeSet::from([3]))] {
        flip(&segment(&bed, machine, seq));
        let again = scrub(&mut bed.gateway.scrub(HOUR), machine, parts[1].clone()).await;
        assert_eq!(again, parts[2..]);
        assert_eq!(told(&bed), damaged, "segment of backup {seq}");
        flip(&segment(&bed, machine, seq));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_damaged_is_sound_when_all_parts_were_whole_and_all_of_it_is_once_more() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let machine = agent.machine;
    let at = PointLocation { machine, seq: 1 };
    let sound = || {
        let verified = std::mem::take(&mut bed.authority.script().verified);
        verified.iter().any(|part| part.sound.iter().any(|(seq, _)| *seq == 1))
    };
    let mut one = bed.gateway.scrub(HOUR);
    bed.authority.script().damaged = vec![(at, "a disk was away".to_owned())];
    let parts = scrub(&mut one, machine, None).await;
    assert!(parts.len() > 1 && !sound(), "parts make nothing sound");
    one.confirm(machine).await.unwrap();
    assert!(sound());

    // Not all parts, or not all whole.
    scrub(&mut one, machine, None).await;
    let mut another = bed.gateway.scrub(HOUR);
    scrub(&mut another, machine, parts[0].clone()).await;
    another.confirm(machine).await.unwrap();
    assert!(!sound());
    flip(&segment(&bed, machine, 1));
    let mut another = bed.gateway.scrub(HOUR);
    scrub(&mut another, machine, None).await;
    flip(&segment(&bed, machine, 1));
    another.confirm(machine).await.unwrap();
    assert!(!sound());
}

/// Such as one that is built on a damaged one and needs nothing of it that is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_damaged_and_is_whole_does_not_wait_for_what_is_damaged() {
    let bed = Bed::new().await;
    let agent = bed.agent(&[("data", &noise(1, MIB))]);
    agent.back_up(&[("data", &noise(1, MIB))]).await;
    let machine = agent.machine;
    let image = noise(2, MIB);
    bed.next(&agent, &[("data", &image)]).back_up(&[("data", &image)]).await;
    flip(&segment(&bed, machine, 1));
    bed.authority.script().damaged =
        [1, 2].map(|seq| (PointLocation { machine, seq }, "something".to_owned())).into();
    let mut one = bed.gateway.scrub(HOUR);
    scrub(&mut one, machine, None).await;
    one.confirm(machine).await.unwrap();
    let script = bed.authority.script();
    let sound: BTreeSet<u64> =
        script.verified.iter().flat_map(|part| &part.sound).map(|(seq, _)| *seq).collect();
    assert_eq!(sound, BTreeSet::from([2]));
}

/// A clone's are another machine's segments.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_reads_what_machines_share_once_while_nothing_is_damaged() {
    let mut bed = Bed::new().await;
    bed.deduplicate(Arc::new(Samples::within(1 << 20))).await;
    let image = noise(5, 4 * MIB);
    let disks: [(&str, &[u8]); 1] = [("data", &image)];
    let [one, other, third] = [bed.agent(&disks), bed.agent(&disks), bed.agent(&disks)];
    for agent in [&one, &other, &third] {
        agent.back_up(&disks).await;
    }
    let shared = segment(&bed, one.machine, 1);
    for (remember, damaged) in [(HOUR, BTreeSet::new()), (Duration::ZERO, BTreeSet::from([1]))] {
        let mut scrubbed = bed.gateway.scrub(remember);
        scrub(&mut scrubbed, one.machine, None).await;
        flip(&shared);
        assert_eq!(told(&bed), BTreeSet::new());
        scrub(&mut scrubbed, other.machine, None).await;
        assert_eq!(told(&bed), damaged, "remembered for {remember:?}");
        flip(&shared);
    }

    // Damage of anything ends the memory: here of what only the second one has.
    let mut scrubbed = bed.gateway.scrub(HOUR);
    scrub(&mut scrubbed, one.machine, None).await;
    let own = std::fs::read_dir(bed.root().join(format!("seg/{}/{:020}", other.machine, 1))).unwrap();
    let own: Vec<PathBuf> = own.map(|entry| entry.unwrap().path()).collect();
    let wholes: Vec<Vec<u8>> = own.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for (path, whole) in own.iter().zip(&wholes) {
        std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
    }
    scrub(&mut scrubbed, other.machine, None).await;
    assert_eq!(told(&bed), BTreeSet::from([1]));
    for (path, whole) in own.iter().zip(&wholes) {
        std::fs::write(path, whole).unwrap();
    }
    flip(&shared);
    scrub(&mut scrubbed, third.machine, None).await;
    assert_eq!(told(&bed), BTreeSet::from([1]));
}
