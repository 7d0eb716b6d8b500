//! Reading points back.

use std::path::PathBuf;

use tonic::Code;

use holdfast_gateway::VerifyTarget;
use holdfast_proto::error::detail_of;
use holdfast_proto::ids::{MachineId, PointId};
use holdfast_vault_engine::VerifyDepth;

use crate::bed::Bed;
use crate::image::noise;
use crate::operator::{read, restore};

const MIB: usize = 1 << 20;

async fn backed_up(disks: &[(&str, &[u8])]) -> (Bed, MachineId, String) {
    let bed = Bed::new().await;
    let agent = bed.agent(disks);
    let point = agent.back_up(disks).await.point_id;
    (bed, agent.machine, point)
}

/// The only segment of a machine.
fn segment(bed: &Bed, machine: MachineId) -> PathBuf {
    let sequence =
        std::fs::read_dir(bed.root().join(format!("seg/{machine}"))).unwrap().next().unwrap().unwrap();
    std::fs::read_dir(sequence.path()).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_small_and_the_restore_is_recorded() {
    let mut image = noise(1, 40 * MIB + 5);
    image[10 * MIB..20 * MIB].fill(0);
    let (bed, _, point) = backed_up(&[("data", &image)]).await;
    let restored = restore(&bed, &point, "").await.unwrap();
    assert!(restored.bytes == image);
    assert!(restored.largest_frame <= MIB + 131_072, "{}", restored.largest_frame);
    let expected = ("alice".to_owned(), point.parse::<PointId>().unwrap(), "data".to_owned());
    assert_eq!(bed.authority.script().restores, [expected]);
    assert!(bed.authority.script().damaged.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_restore_and_only_what_there_is() {
    let (one, two) = (noise(1, MIB), noise(2, MIB));
    let (bed, _, point) = backed_up(&[("one", &one), ("two", &two)]).await;
    for (role, wanted, disk, code) in [
        ("", point.as_str(), "one", Code::Unauthenticated),
        ("viewer", &point, "one", Code::PermissionDenied),
        ("admin", "web2@latest", "one", Code::NotFound),
        ("admin", &point, "three", Code::NotFound),
        ("admin", &point, "", Code::InvalidArgument),
    ] {
        let status = read(&bed, role, wanted, disk).await.unwrap_err();
        assert_eq!(status.code(), code, "{role} {wanted} {disk}");
        assert!(!detail_of(&status).message.is_empty());
    }
    assert!(bed.authority.script().restores.is_empty(), "nothing was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_marked() {
    let image = noise(1, 4 * MIB);
    let (mut bed, machine, point) = backed_up(&[("data", &image)]).await;
    bed.restart().await;
    let segment = segment(&bed, machine);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[2 * MIB] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let status = restore(&bed, &point, "data").await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::DataLoss, "damaged"));
    for part in ["web1", point.as_str(), "data", "bytes 0 to 4194304"] {
        assert!(status.message().contains(part), "{part:?} is not in {:?}", status.message());
    }
    let damaged: Vec<_> = bed.authority.script().damaged.iter().map(|(at, _)| (at.machine, at.seq)).collect();
    assert_eq!(damaged, [(machine, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_gone_is_marked_however_it_is_named() {
    let image = noise(1, MIB);
    let (bed, machine, _) = backed_up(&[("data", &image)]).await;
    std::fs::remove_dir_all(bed.root().join(format!("points/{machine}"))).unwrap();
    let status = restore(&bed, "web1@latest", "data").await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    let damaged: Vec<_> = bed.authority.script().damaged.iter().map(|(at, _)| (at.machine, at.seq)).collect();
    assert_eq!(damaged, [(machine, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_gone_is_damage() {
    let image = noise(1, MIB);
    let (mut bed, machine, point) = backed_up(&[("data", &image)]).await;
    bed.restart().await;
    std::fs::remove_dir_all(bed.root().join(format!("points/{machine}"))).unwrap();
    let status = restore(&bed, &point, "data").await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert!(status.message().contains(&point));
    assert_eq!(bed.authority.script().damaged.len(), 1);
}

/// Nothing in the vault is built on the newest point: only the catalogue can tell.
#[tokio::test(flavor = "multi_thread")]
async fn another_point_in_the_place_of_the_newest_is_damage() {
    let (first, second) = (noise(1, MIB), noise(2, MIB));
    let mut bed = Bed::new().await;
    let agent = bed.agent(&[("data", &first)]);
    agent.back_up(&[("data", &first)]).await;
    let at = (agent.machine, 1);
    let recorded = bed.authority.script().points.remove(&at).unwrap();
    for folder in ["points", "open", "seg"] {
        std::fs::remove_dir_all(bed.root().join(format!("{folder}/{}", agent.machine))).unwrap();
    }
    bed.restart().await;
    // The vault's own signature, for the same machine and number.
    bed.next(&agent, &[("data", &second)]).back_up(&[("data", &second)]).await;
    bed.authority.script().points.insert(at, recorded);

    let status = restore(&bed, "web1@latest", "data").await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::DataLoss, "damaged"), "{status:?}");
    let damaged: Vec<_> = bed.authority.script().damaged.iter().map(|(at, _)| (at.machine, at.seq)).collect();
    assert_eq!(damaged, [at]);

    let (progress, _) = tokio::sync::mpsc::channel(1);
    let report =
        bed.gateway.verify(VerifyTarget::Vault, VerifyDepth::ReadData, "alice", progress).await.unwrap();
    let told: Vec<u64> = report.findings.iter().map(|finding| finding.point.as_ref().unwrap().seq).collect();
    assert_eq!((told, report.points), (vec![1], 1));
    let verified = bed.authority.script().verified.pop().unwrap();
    assert_eq!((verified.damaged[0].0, verified.sound), (1, vec![]));
}
