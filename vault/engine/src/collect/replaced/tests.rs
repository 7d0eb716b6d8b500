use std::pin::pin;
use std::sync::Arc;

use chrono::Utc;
use futures::TryStreamExt as _;
use holdfast_vault_format::kept::Blocks;
use holdfast_vault_format::{BLOCK_SIZE, Codec, Extent};
use uuid::Uuid;

use super::*;
use crate::{
    BeginBackup, Begun, Consistency, DiskSpec, KeyFile, NewCell, Point, Storage, VerifyDepth, VerifyPace,
    VerifyScope, object,
};

const MACHINE: Uuid = Uuid::from_u128(1);
const BLOCKS: u8 = 8;
const FIRST: SegmentId = SegmentId { machine: MACHINE, seq: 1, number: 0, generation: 0 };

/// A point of one cell, in one segment.
async fn back_up(vault: &Vault) -> Point {
    let request = BeginBackup {
        machine: MACHINE,
        machine_name: "web1".to_owned(),
        snapshot_id: Uuid::new_v4(),
        step_id: Uuid::new_v4(),
        attempt: 1,
        consistency: Consistency::Crash,
        taken_at: Utc::now(),
        disks: vec![DiskSpec { name: "sda".to_owned(), size_bytes: u64::from(BLOCKS) * BLOCK_SIZE as u64 }],
        at_least_seq: 0,
        damaged: Vec::new(),
    };
    let Begun::Open(backup) = vault.begin(request).await.unwrap() else { panic!("committed already") };
    let plain: Vec<u8> = (1..=BLOCKS).flat_map(|block| vec![block; BLOCK_SIZE]).collect();
    let cell = NewCell {
        codec: Codec::Raw,
        plain_bytes: u32::try_from(plain.len()).unwrap(),
        extents: vec![Extent { first_block: 0, block_count: u64::from(BLOCKS) }],
        data: plain.into(),
    };
    backup.push("sda", vec![cell], Vec::new()).await.unwrap();
    backup.prepare(&[]).await.unwrap().commit().await.unwrap()
}

/// Everything that the point needs but for some blocks of its cell.
async fn needed_but(vault: &Vault, point: &Point, without: Blocks) -> Arc<Needed> {
    let wanted = std::iter::once((FIRST.seq, FIRST.number)).collect();
    let mut all = vault.blocks_needed(std::slice::from_ref(point), &wanted).await.unwrap();
    let needed = all.remove(&(FIRST.seq, FIRST.number)).unwrap();
    Arc::new(needed.without(0, without))
}

/// What no collection does: a replacement lacks blocks that a point needs. It does not count as one, and if it is all that there is,
/// nothing is restored from it and verification names the bytes.
#[tokio::test]
async fn a_replacement_that_lacks_blocks_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&dir.path().join("key")).unwrap();
    let path = dir.path().join("vault");
    std::fs::create_dir(&path).unwrap();
    let storage = || Storage::directory(&path).unwrap();
    let vault = Vault::create(storage(), &key).await.unwrap();
    let point = back_up(&vault).await;
    let all = needed_but(&vault, &point, Blocks::default()).await;
    assert_eq!(all.of(0), Blocks(0xff));
    let less = needed_but(&vault, &point, Blocks(0b0110_0000)).await;
    let later = |generation| SegmentId { generation, ..FIRST };
    for (generation, needed) in [(1, &less), (2, &all)] {
        let (_, bytes) = vault.left_of(FIRST, later(generation), needed).await.unwrap();
        object::create(vault.storage(), &later(generation).name(), bytes).await.unwrap();
    }
    let generations: [CondemnedSegment; 2] = [later(1).into(), later(2).into()];
    let key_of = FIRST.any_generation();
    let needs = |needed: &Arc<Needed>| -> NeededSegments {
        std::iter::once(((FIRST.seq, FIRST.number), needed.without(0, Blocks::default()))).collect()
    };
    let replacement = async |needed, generations: &[CondemnedSegment]| {
        vault.replacement(&needs(needed), key_of, generations).await.unwrap()
    };
    assert_eq!(replacement(&less, &generations[..1]).await, Some(1));
    assert_eq!(replacement(&less, &generations).await, Some(2));
    assert_eq!(replacement(&all, &generations[..1]).await, None);
    assert_eq!(replacement(&all, &generations).await, Some(2));
    assert_eq!(replacement(&all, &[]).await, None);

    // Whichever is left, what it has is found.
    object::delete(vault.store(), &FIRST.name()).await.unwrap();
    let restored = async |vault: &Vault| {
        let mut windows = pin!(vault.open_disk(&point, "sda").await?.windows());
        let mut blocks = 0;
        while let Some(window) = windows.try_next().await? {
            let pieces = window.cells.iter().flat_map(|cell| &cell.pieces);
            blocks += pieces.map(|piece| piece.extent.block_count).sum::<u64>();
        }
        Ok::<_, VaultError>(blocks)
    };
    let verify = async |vault: &Vault| {
        vault.verify(VerifyScope::Vault, VerifyDepth::Structure, VerifyPace::Full, |_| {}).await.unwrap()
    };
    let both = Vault::open(storage(), &key).await.unwrap();
    assert_eq!(restored(&both).await.unwrap(), u64::from(BLOCKS));
    assert!(verify(&both).await.findings.is_empty());
    assert_eq!(both.holder(FIRST, 0, Blocks(0b1001)).await.unwrap().id, later(1));
    assert_eq!(both.holder(FIRST, 0, Blocks(0b0010_0000)).await.unwrap().id, later(2));
    object::delete(vault.store(), &later(2).name()).await.unwrap();
    for vault in [&both, &Vault::open(storage(), &key).await.unwrap()] {
        let error = restored(vault).await.unwrap_err();
        assert!(matches!(error, VaultError::DamagedRange { .. }), "{error:?}");
        assert!(vault.holder(FIRST, 0, Blocks(0b0010_0000)).await.is_err());
        let report = verify(vault).await;
        let damaged = report.findings[0].point.clone().unwrap();
        assert_eq!((damaged.id, damaged.ranges.len()), (Some(point.id), 1), "{report:?}");
        assert_eq!(damaged.ranges[0], 0..u64::from(BLOCKS) * BLOCK_SIZE as u64);
    }
}
