use holdfast_vault_format::delta::encode_extents;

use super::super::pages::tests::backup;
use super::*;
use crate::Backup;

fn zeros(first_block: u64, block_count: u64) -> Placed {
    Placed { extent: Extent { first_block, block_count }, place: Place::Zero }
}

fn in_segment(segment: u32) -> Placed {
    let place = Place::Cell { segment, cell: 0, cell_block: 0 };
    Placed { extent: Extent { first_block: 0, block_count: 4 }, place }
}

fn sources(backup: &Backup, merged: Vec<(u64, DeltaRoot)>, bottom: Option<u64>) -> Sources {
    Sources { shared: Arc::clone(&backup.shared), layer: Arc::default(), cut: None, merged, bottom }
}

fn named(number: u32, root: u8) -> SegmentRef {
    SegmentRef { lender: None, seq: 1, number, generation: 0, root: [root; 32] }
}

/// A delta with one page that says this, stored by the backup.
async fn stored(backup: &Backup, page: &[Placed], segments: Vec<SegmentRef>) -> (u64, DeltaRoot) {
    let (place, hash) = write_meta(&backup.shared, encode_extents(page)).await.unwrap();
    backup.flush().await.unwrap();
    let (first_block, end_block) = (page[0].first(), page[page.len() - 1].end());
    let root = DeltaRoot {
        size_bytes: 1 << 30,
        extents: page.len() as u64,
        segments,
        extent_pages: vec![PageRef { first_block, end_block, place, hash }],
        hash_pages: Vec::new(),
    };
    (backup.seq(), root)
}

fn refusal<T>(result: Result<T, VaultError>) -> String {
    match result.map(drop) {
        Err(error @ VaultError::Mismatch { .. }) => {
            assert!(error.is_damage());
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

/// Who has the vault's key can write a delta that names what it does not list.
#[tokio::test]
async fn a_forged_delta_that_names_a_segment_beyond_its_list_is_damage() {
    let (_dir, backup) = backup().await;
    for (segment, count) in [(0, 0), (2, 2), (u32::MAX, 2)] {
        let segments = (0..count).map(|number| named(number, 1)).collect();
        let forged = stored(&backup, &[in_segment(segment)], segments).await;
        let said = refusal(sources(&backup, vec![forged], None).write_extents().await);
        assert!(said.contains(&format!("names no segment {segment}")), "{said}");
    }
    let good = stored(&backup, &[in_segment(1)], vec![named(0, 1), named(1, 1)]).await;
    let (written, segments) = sources(&backup, vec![good], None).write_extents().await.unwrap();
    assert_eq!((written.entries, segments), (1, vec![named(1, 1)]), "only what is referred to is listed");
}

#[tokio::test]
async fn deltas_that_disagree_about_a_segment_are_damage() {
    let (_dir, backup) = backup().await;
    let mut later = in_segment(0);
    later.extent.first_block = 4;
    let one = stored(&backup, &[in_segment(0)], vec![named(7, 1)]).await;
    let same = stored(&backup, &[later], vec![named(7, 1)]).await;
    let other = stored(&backup, &[later], vec![named(7, 2)]).await;
    let (_, segments) = sources(&backup, vec![one.clone(), same], None).write_extents().await.unwrap();
    assert_eq!(segments, [named(7, 1)]);
    let said = refusal(sources(&backup, vec![one, other], None).write_extents().await);
    assert!(said.contains("disagree"), "{said}");
}

/// The blocks that are written of these layers, newest first, when nothing lies under them and the disk has eight.
async fn bottom(layers: Vec<Vec<Placed>>) -> Result<(u64, u64), VaultError> {
    let (_dir, backup) = backup().await;
    let layers = layers.into_iter().map(|layer| stream::iter([Ok(layer)]).boxed()).collect();
    let written = sources(&backup, Vec::new(), Some(8)).write(layers, |_, placed| Ok(placed)).await?;
    Ok((written.pages[0].first_block, written.pages[written.pages.len() - 1].end_block))
}

#[tokio::test]
async fn a_bottom_delta_covers_the_disk_and_no_more() {
    assert_eq!(bottom(vec![vec![zeros(0, 8)]]).await.unwrap(), (0, 8));
    assert_eq!(bottom(vec![vec![zeros(2, 3)], vec![zeros(0, 8)]]).await.unwrap(), (0, 8));
    assert_eq!(bottom(vec![vec![zeros(0, 9)]]).await.unwrap(), (0, 8), "cut off");
    assert_eq!(bottom(vec![vec![zeros(0, 8), zeros(8, 1)]]).await.unwrap(), (0, 8), "left out");
    for (layers, block) in [
        (vec![vec![zeros(1, 8)]], 0),
        (vec![vec![zeros(0, 3), zeros(4, 5)]], 3),
        (vec![vec![zeros(0, 7)]], 7),
        (vec![vec![]], 0),
    ] {
        let said = refusal(bottom(layers).await);
        assert!(said.contains(&format!("no delta covers block {block}")), "{said}");
    }
}
