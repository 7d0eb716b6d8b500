//! Damage that points share.

use std::path::PathBuf;
use std::sync::Arc;

use tonic::Code;

use holdfast_gateway::{PointLocation, VerifyTarget};
use holdfast_proto::error::detail_of;
use holdfast_proto::ids::MachineId;
use holdfast_proto::v1::MapLayer;
use holdfast_vault_engine::{Samples, VerifyDepth, VerifyReport};

use crate::bed::{Bed, eventually};
use crate::image::{blocks, frames, noise};
use crate::operator::restore;

const MIB: usize = 1 << 20;

/// Of a machine's first backup, the segment with all data.
fn segment(bed: &Bed, machine: MachineId) -> PathBuf {
    segment_of(bed, machine, 0)
}

fn segment_of(bed: &Bed, machine: MachineId, number: u32) -> PathBuf {
    bed.root().join(format!("seg/{machine}/{:020}/{number:08}.0", 1))
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn marked(bed: &Bed, machine: MachineId) -> Vec<u64> {
    let mut seqs: Vec<u64> = bed
        .authority
        .script()
        .damaged
        .iter()
        .filter(|(at, _)| at.machine == machine)
        .map(|(at, _)| at.seq)
        .collect();
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

async fn verify(bed: &Bed, target: VerifyTarget) -> VerifyReport {
    let (progress, _) = tokio::sync::mpsc::channel(1);
    bed.gateway.verify(target, VerifyDepth::ReadData, "alice", progress).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_meets_damage_marks_all_points_that_need_the_same_bytes() {
    let mut bed = Bed::new().await;
    let (mut image, agent) = {
        let image = noise(1, 4 * MIB);
        let agent = bed.agent(&[("data", &image)]);
        (image, agent)
    };
    let first = agent.back_up(&[("data", &image)]).await.point_id;
    // The second has nothing else in the first megabyte, the third all of it anew.
    image[3 * MIB..].copy_from_slice(&noise(2, MIB));
    bed.next(&agent, &[("data", &image)]).back_up(&[("data", &image)]).await;
    image[..2 * MIB].copy_from_slice(&noise(3, 2 * MIB));
    bed.next(&agent, &[("data", &image)]).back_up(&[("data", &image)]).await;
    let segment = segment(&bed, agent.machine);
    flip(&segment, MIB / 2);
    bed.restart().await;

    let status = restore(&bed, &first, "data").await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::DataLoss, "damaged"));
    eventually("the second is marked", async || marked(&bed, agent.machine) == [1, 2]).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(marked(&bed, agent.machine), [1, 2], "the third does not need it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_its_base_is_found_damaged_does_not_need_the_damage() {
    let mut bed = Bed::new().await;
    let mut image = noise(1, 4 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    image[3 * MIB..].copy_from_slice(&noise(2, MIB));
    bed.restart().await;
    let next = bed.next(&agent, &[("data", &image)]).over(bed.channel());
    let open = next.open().await;
    assert_ne!(open.disks[0].base_size_bytes, 0);
    let changed = next.changed(&open, "data", &image).await;
    next.send(changed).await;

    flip(&segment(&bed, agent.machine), MIB / 2);
    assert_eq!(verify(&bed, VerifyTarget::Machine(agent.machine)).await.findings.len(), 1);
    let at = PointLocation { machine: agent.machine, seq: 1 };
    bed.authority.script().damaged.push((at, "found".to_owned()));
    let status = next.try_commit(&open.transfer_id).await.unwrap_err();
    assert_eq!(detail_of(&status).code, "transfer_closed", "{status:?}");

    // The same attempt goes on, without that base.
    let open = next.open().await;
    assert_eq!(open.disks[0].base_size_bytes, 0);
    assert_eq!(bed.authority.script().healing, [(next.step, at)]);
    let changed = next.changed(&open, "data", &image).await;
    next.send(changed).await;
    let point = next.commit(&open.transfer_id).await.point_id;
    assert!(restore(&bed, &point, "data").await.unwrap().bytes == image);
}

/// What only backups read is damaged: the agent asks for the hashes of blocks, or has them, and they are merged with new ones.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_only_a_backup_meets_costs_a_full_transfer_and_no_job() {
    for has_map in [false, true] {
        let mut bed = Bed::new().await;
        let mut image = noise(1, 4 * MIB);
        let agent = bed.agent(&[("data", &image)]);
        let first = agent.back_up(&[("data", &image)]).await.point_id;
        image[..3 * MIB].copy_from_slice(&noise(2, 3 * MIB));
        // In the middle of the hashes of its blocks, which no restore reads.
        flip(&segment_of(&bed, agent.machine, 1), 4096);
        bed.restart().await;
        let next = bed.next(&agent, &[("data", &image)]).over(bed.channel());
        let open = next.open().await;
        assert_ne!(open.disks[0].base_size_bytes, 0, "the roots of its deltas are whole");
        let status = if has_map {
            let changed = blocks(&image).take(3 * MIB / 4096);
            next.send(frames(&open.transfer_id, "data", changed)).await;
            next.try_commit(&open.transfer_id).await.unwrap_err()
        } else {
            next.try_map(&open.transfer_id, "data", MapLayer::Merged).await.unwrap_err()
        };
        assert_eq!(detail_of(&status).code, "transfer_closed", "{status:?}");

        let open = next.open().await;
        assert_eq!(open.disks[0].base_size_bytes, 0);
        let at = PointLocation { machine: agent.machine, seq: 1 };
        assert_eq!(bed.authority.script().healing, [(next.step, at)]);
        let changed = next.changed(&open, "data", &image).await;
        next.send(changed).await;
        let point = next.commit(&open.transfer_id).await.point_id;
        assert!(restore(&bed, &point, "data").await.unwrap().bytes == image);
        assert!(restore(&bed, &first, "data").await.is_ok(), "it lost nothing that restores read");
    }
}

/// When it was looked for what needs the damage, it was not there, and what it is built upon was not marked yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_points_are_marked_is_marked_as_well() {
    let mut bed = Bed::new().await;
    let mut image = noise(1, 4 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    let first = agent.back_up(&[("data", &image)]).await.point_id;
    image[3 * MIB..].copy_from_slice(&noise(2, MIB));
    bed.next(&agent, &[("data", &image)]).back_up(&[("data", &image)]).await;
    flip(&segment(&bed, agent.machine), MIB / 2);
    bed.restart().await;

    let hold = bed.authority.hold_mark(2);
    let status = restore(&bed, &first, "data").await.unwrap_err();
    assert_eq!(detail_of(&status).code, "damaged");
    hold.reached().await;
    image[2 * MIB..].copy_from_slice(&noise(3, 2 * MIB));
    let third = bed.next(&agent, &[("data", &image)]).over(bed.channel());
    third.back_up(&[("data", &image)]).await;
    assert_eq!(marked(&bed, agent.machine), [1]);
    hold.release();
    eventually("the third is marked", async || marked(&bed, agent.machine) == [1, 2, 3]).await;
}

/// The catalogue is away for a moment, or has the point later.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_marked_is_marked_later() {
    let mut bed = Bed::new().await;
    let image = noise(1, 4 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    let point = agent.back_up(&[("data", &image)]).await.point_id;
    flip(&segment(&bed, agent.machine), MIB / 2);
    bed.restart().await;
    bed.authority.script().mark_failures = 1;
    let status = restore(&bed, &point, "data").await.unwrap_err();
    assert_eq!(detail_of(&status).code, "damaged");
    eventually("the point is marked", async || marked(&bed, agent.machine) == [1]).await;

    // Another gateway has created it, and died before it was recorded.
    bed.authority.script().damaged.clear();
    bed.authority.script().points.remove(&(agent.machine, 1)).unwrap();
    verify(&bed, VerifyTarget::Machine(agent.machine)).await;
    assert_eq!(marked(&bed, agent.machine), [1]);
    assert!(bed.authority.script().points.contains_key(&(agent.machine, 1)), "recorded first");
}

/// A machine that borrows reads it first.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_of_the_machine_whose_segment_it_is() {
    let mut bed = Bed::new().await;
    bed.deduplicate(Arc::new(Samples::within(1 << 20))).await;
    let image = noise(1, 4 * MIB);
    let disks: [(&str, &[u8]); 1] = [("data", &image)];
    let (owner, borrower) = (bed.agent(&disks), bed.agent(&disks));
    owner.back_up(&disks).await;
    borrower.back_up(&disks).await;
    flip(&segment(&bed, owner.machine), MIB);
    let report = verify(&bed, VerifyTarget::Machine(borrower.machine)).await;
    assert_eq!(report.damaged.keys().collect::<Vec<_>>(), [&borrower.machine.0]);
    assert_eq!(marked(&bed, owner.machine), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_machines_share_is_read_once() {
    let mut bed = Bed::new().await;
    bed.deduplicate(Arc::new(Samples::within(1 << 20))).await;
    let image = noise(1, 8 * MIB);
    let disks: [(&str, &[u8]); 1] = [("data", &image)];
    let mut agents = Vec::new();
    for _ in 0..4 {
        let agent = bed.agent(&disks);
        agent.back_up(&disks).await;
        agents.push(agent);
    }
    let whole = verify(&bed, VerifyTarget::Vault).await;
    assert!(whole.findings.is_empty());
    assert_eq!(
        (whole.points, whole.read_segments),
        (4, 5),
        "one with the deltas of each, and the shared one"
    );
    assert!(whole.read_bytes < 9 * MIB as u64, "{}", whole.read_bytes);

    // Of a machine in which damage was found before, everything is read: what is found sound is listed again.
    let last = agents[3].machine;
    bed.authority.script().damaged.push((PointLocation { machine: last, seq: 1 }, "was".to_owned()));
    let again = verify(&bed, VerifyTarget::Vault).await;
    assert_eq!(again.read_segments, 6);
    // Whose damage it is, is found from all of them.
    flip(&segment(&bed, agents[0].machine), MIB);
    let damaged = verify(&bed, VerifyTarget::Vault).await;
    assert_eq!(damaged.damaged.len(), 4, "{:?}", damaged.findings);
}
