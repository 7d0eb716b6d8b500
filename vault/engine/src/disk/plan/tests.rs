use chrono::Utc;
use futures::TryStreamExt as _;
use holdfast_vault_format::container::Kind;
use holdfast_vault_format::record;
use holdfast_vault_format::{BLOCK_SIZE, Codec};
use uuid::Uuid;

use super::*;
use crate::{
    BeginBackup, Begun, Consistency, DiskSpec, KeyFile, NewCell, Outcome, Point, Storage, Vault, VerifyDepth,
    VerifyPace, VerifyScope, chain, name, object,
};

const MACHINE: Uuid = Uuid::from_u128(1);
const BLOCKS: u64 = 64;

fn extent(first_block: u64, end: u64) -> Extent {
    Extent { first_block, block_count: end - first_block }
}

async fn back_up(vault: &Vault, cells: Vec<NewCell>, zeros: Vec<Extent>) -> Point {
    let request = BeginBackup {
        machine: MACHINE,
        machine_name: "web1".to_owned(),
        snapshot_id: Uuid::new_v4(),
        step_id: Uuid::new_v4(),
        attempt: 1,
        consistency: Consistency::Crash,
        taken_at: Utc::now(),
        disks: vec![DiskSpec { name: "sda".to_owned(), size_bytes: BLOCKS * BLOCK_SIZE as u64 }],
        at_least_seq: 0,
        damaged: Vec::new(),
    };
    let Begun::Open(backup) = vault.begin(request).await.unwrap() else { panic!("committed already") };
    backup.push("sda", cells, zeros).await.unwrap();
    backup.prepare(&[]).await.unwrap().commit().await.unwrap()
}

fn cell(first_block: u64, end: u64) -> NewCell {
    let plain: Vec<u8> =
        (first_block..end).flat_map(|block| vec![u8::try_from(block + 1).unwrap(); BLOCK_SIZE]).collect();
    NewCell {
        codec: Codec::Raw,
        plain_bytes: u32::try_from(plain.len()).unwrap(),
        extents: vec![extent(first_block, end)],
        data: plain.into(),
    }
}

/// What nobody writes who keeps the rules, signed by the vault's key all the same: the same point without its oldest delta.
async fn without_its_bottom(vault: &Vault, point: &Point) -> Point {
    let object = name::point(MACHINE, point.seq);
    let body = vault.read_record(&object, Kind::Point).await.unwrap();
    let mut record = record::verify(&body, &vault.inner.signer.public_key()).unwrap();
    record.disks[0].stack.pop().unwrap();
    object::delete(vault.store(), &object).await.unwrap();
    let body = vault.inner.signer.sign(&record);
    match vault.decide(MACHINE, point.seq, Kind::Point, &body).await.unwrap() {
        Outcome::Point(point) => point,
        other => panic!("{other:?}"),
    }
}

/// All other blocks of the disk are zeros by the only delta that is left: nothing else says that one is missing.
#[tokio::test]
async fn a_block_that_no_delta_covers_is_damage_and_no_zeros() {
    for missing in [0, BLOCKS / 2, BLOCKS - 1] {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyFile::generate(&dir.path().join("key")).unwrap();
        let path = dir.path().join("vault");
        std::fs::create_dir(&path).unwrap();
        let vault = Vault::create(Storage::directory(&path).unwrap(), &key).await.unwrap();
        back_up(&vault, vec![cell(0, 32), cell(32, 64)], Vec::new()).await;
        let zeros = [extent(0, missing), extent(missing + 1, BLOCKS)];
        let zeros = zeros.into_iter().filter(|zeros| zeros.block_count > 0).collect();
        let good = back_up(&vault, Vec::new(), zeros).await;
        assert_eq!(good.disks[0].stack.len(), 2, "merged: nothing would be missing");
        let windows = async |point: &Point| {
            vault.open_disk(point, "sda").await.unwrap().windows().try_collect::<Vec<_>>().await
        };
        let read = windows(&good).await.unwrap();
        let blocks: u64 = read.iter().flat_map(|window| &window.zeros).map(|zeros| zeros.block_count).sum();
        assert_eq!(blocks, BLOCKS - 1);

        let bad = without_its_bottom(&vault, &good).await;
        let error = windows(&bad).await.unwrap_err();
        assert!(error.is_damage(), "{error:?}");
        assert!(chain(&error).contains(&format!("no delta covers block {missing}")), "{}", chain(&error));
        for depth in [VerifyDepth::Structure, VerifyDepth::ReadData] {
            let report = vault.verify(VerifyScope::Vault, depth, VerifyPace::Full, |_| {}).await.unwrap();
            let told: Vec<u64> =
                report.findings.iter().filter_map(|finding| Some(finding.point.as_ref()?.seq)).collect();
            assert_eq!(told, [bad.seq], "{depth:?}: {report:?}");
        }
    }
}
