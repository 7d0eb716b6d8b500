//! The scrub, a part at a time.

use std::sync::Arc;
use std::time::Duration;

use holdfast_gateway::{PointLocation, Scrub};
use holdfast_proto::ids::MachineId;
use holdfast_vault_engine::Samples;

use crate::bed::Bed;
use crate::image::noise;

const MIB: usize = 1 << 20;

/// Where each part of a scrub of this machine ended.
async fn scrub(scrub: &mut Scrub, machine: MachineId, mut after: Option<String>) -> Vec<Option<String>> {
    let mut parts = Vec::new();
    loop {
        after = scrub.read_part(machine, after.as_deref(), 1).await.unwrap();
        parts.push(after.clone());
        if after.is_none() {
            return parts;
        }
    }
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
    let hour = Duration::from_secs(3600);
    let parts = scrub(&mut bed.gateway.scrub(hour), agent.machine, None).await;
    let names: Vec<&String> = parts.iter().flatten().collect();
    // Each backup has one of data and one of deltas.
    assert!(names.len() == 5 && names.is_sorted(), "{parts:?}");

    // What is damaged in a part that was read before is not told by those that come after, and what they read is.
    for (segment, told) in [(1, 0), (3, 1)] {
        bed.authority.script().verified.clear();
        let path = bed.root().join(format!("seg/{}/{segment:020}/00000000.0", agent.machine));
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[whole.len() / 3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let again = scrub(&mut bed.gateway.scrub(hour), agent.machine, parts[1].clone()).await;
        assert_eq!(again, parts[2..]);
        let damaged: usize = bed.authority.script().verified.iter().map(|part| part.damaged.len()).sum();
        assert_eq!(damaged, told, "segment {segment}");
        std::fs::write(&path, whole).unwrap();
    }

    // A point that is called damaged is read whole, and found to be sound.
    let at = PointLocation { machine: agent.machine, seq: 1 };
    bed.authority.script().damaged = vec![(at, "a disk was away".to_owned())];
    bed.authority.script().verified.clear();
    let parts = scrub(&mut bed.gateway.scrub(hour), agent.machine, None).await;
    assert_eq!(parts, [None]);
    let sound = bed.authority.script().verified.last().unwrap().sound.clone();
    assert_eq!(sound.len(), 3);
}

/// A clone's are another machine's segments.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_reads_what_machines_share_once_and_what_is_damaged_for_each() {
    let mut bed = Bed::new().await;
    bed.deduplicate(Arc::new(Samples::within(1 << 20))).await;
    let image = noise(5, 4 * MIB);
    let disks: [(&str, &[u8]); 1] = [("data", &image)];
    let one = bed.agent(&disks);
    one.back_up(&disks).await;
    let other = bed.agent(&disks);
    other.back_up(&disks).await;
    let path = bed.root().join(format!("seg/{}/{:020}/00000000.0", one.machine, 1));
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 3] ^= 1;

    for remember in [Duration::from_secs(3600), Duration::ZERO] {
        let mut scrub = bed.gateway.scrub(remember);
        assert_eq!(scrub.read_part(one.machine, None, 100).await.unwrap(), None);
        std::fs::write(&path, &damaged).unwrap();
        bed.authority.script().verified.clear();
        assert_eq!(scrub.read_part(other.machine, None, 100).await.unwrap(), None);
        let told: usize = bed.authority.script().verified.iter().map(|part| part.damaged.len()).sum();
        assert_eq!(told > 0, remember.is_zero(), "remembered for {remember:?}");
        std::fs::write(&path, &whole).unwrap();
    }
}
