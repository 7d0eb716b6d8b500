//! What verification tells the catalogue.

use chrono::{TimeDelta, Utc};
use tokio::sync::mpsc;
use tonic::Code;

use holdfast_gateway::{Authority as _, Decision, PointLocation, VerifyTarget};
use holdfast_proto::error::detail_of;
use holdfast_vault_engine::{LockMode, VerifyDepth, VerifyReport};

use crate::bed::Bed;
use crate::image::noise;

const MIB: usize = 1 << 20;

async fn verify(bed: &Bed, target: VerifyTarget) -> VerifyReport {
    let (progress, _) = mpsc::channel(1);
    bed.gateway.verify(target, VerifyDepth::ReadData, "alice", progress).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_the_vault_lost_are_damaged() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let disks: [(&str, &[u8]); 1] = [("data", &image)];
    let one = bed.agent(&disks);
    one.back_up(&disks).await;
    bed.next(&one, &disks).back_up(&disks).await;
    let other = bed.agent(&disks);
    other.back_up(&disks).await;
    assert!(verify(&bed, VerifyTarget::Vault).await.findings.is_empty());
    bed.authority.script().verified.clear();

    // Nobody was built on the newest one; of the other machine nothing is left.
    let newest = bed.root().join(format!("points/{}/{:020}", one.machine, 2));
    std::fs::remove_file(newest).unwrap();
    for folder in ["points", "open", "seg"] {
        std::fs::remove_dir_all(bed.root().join(format!("{folder}/{}", other.machine))).unwrap();
    }
    let report = verify(&bed, VerifyTarget::Vault).await;
    let mut told: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.machine, finding.machine_name.as_str(), finding.point.as_ref().unwrap().seq))
        .collect();
    told.sort_unstable();
    let mut lost = [(one.machine.0, "web1", 2), (other.machine.0, "web1", 1)];
    lost.sort_unstable();
    assert_eq!(told, lost);
    assert_eq!(report.points, 3);
    let mut damaged: Vec<(_, u64)> = Vec::new();
    for verified in &bed.authority.script().verified {
        damaged.extend(verified.damaged.iter().map(|(seq, _)| (verified.machine.0, *seq)));
    }
    damaged.sort_unstable();
    assert_eq!(damaged, lost.map(|(machine, _, seq)| (machine, seq)));

    // Asked for by its name it is told as well, and it alone.
    bed.authority.script().verified.clear();
    let target = VerifyTarget::Point(PointLocation { machine: one.machine, seq: 2 });
    assert_eq!(verify(&bed, target).await.findings.len(), 1);
    let target = VerifyTarget::Point(PointLocation { machine: one.machine, seq: 1 });
    assert!(verify(&bed, target).await.findings.is_empty());
    let verified = bed.authority.script().verified.clone();
    assert_eq!((verified[0].damaged[0].0, verified[1].damaged.len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sound_is_so_since_the_verification_began() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let at = PointLocation { machine: agent.machine, seq: 1 };
    bed.authority.script().damaged = vec![(at, "a disk was away".to_owned())];
    verify(&bed, VerifyTarget::Machine(agent.machine)).await;
    assert_eq!(bed.authority.script().verified[0].sound, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_the_storage_lost_is_told_and_binds() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let until = Utc::now() + TimeDelta::hours(1);
    let point = async || bed.authority.find_point("web1@latest").await.unwrap();
    let lock = Decision::Lock { mode: LockMode::Governance, until };
    bed.gateway.decide_point(point().await, lock, "alice").await.unwrap();
    let event = bed.root().join(format!("points/{}/{:020}.{:08}", agent.machine, 1, 1));
    let kept = std::fs::read(&event).unwrap();
    std::fs::remove_file(&event).unwrap();

    for decision in [Decision::Delete, Decision::Unlock, lock] {
        let status = bed.gateway.decide_point(point().await, decision, "bob").await.unwrap_err();
        assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::DataLoss, "decisions_lost"));
    }
    let told = verify(&bed, VerifyTarget::Vault).await.findings;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].reason.starts_with("of 1 decisions about point ") && told[0].reason.ends_with(" 0 are left")
    );
    assert!(told[0].point.is_none(), "it restores");
    assert!(!event.try_exists().unwrap());

    std::fs::write(&event, kept).unwrap();
    assert!(verify(&bed, VerifyTarget::Vault).await.findings.is_empty());
    let status = bed.gateway.decide_point(point().await, Decision::Delete, "bob").await.unwrap_err();
    assert_eq!(detail_of(&status).code, "point_locked");
}
