//! What an agent must not be able to do: nothing of a bad frame is taken, and what is acknowledged is readable.

use holdfast_vault_engine::{Codec, Extent, NewCell, VaultError, encode_cell};
use uuid::Uuid;

use super::support::agent::{cell, push_blocks};
use super::support::{Image, TestVault, begin, finish, request, restore_disk};

const MIB: usize = 1 << 20;

fn extent(first_block: u64, block_count: u64) -> Extent {
    Extent { first_block, block_count }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_are_refused_whole() {
    let test = TestVault::new().await;
    let image = Image::noise(40, MIB);
    let backup = begin(&test.vault, request(Uuid::new_v4(), &[("sda", &image)])).await.unwrap();
    let good = || cell(&image, &[0, 1]);
    let bad: Vec<(&str, NewCell)> = vec![
        ("beyond the end", NewCell { extents: vec![extent(255, 2)], ..good() }),
        ("overflow", NewCell { extents: vec![extent(u64::MAX, 2)], ..good() }),
        ("huge", NewCell { extents: vec![extent(0, u64::MAX)], ..good() }),
        ("sum overflows", NewCell { extents: vec![extent(0, 1), extent(1, u64::MAX)], ..good() }),
        ("empty extent", NewCell { extents: vec![extent(0, 2), extent(5, 0)], ..good() }),
        ("no extents", NewCell { extents: Vec::new(), ..good() }),
        ("descending", NewCell { extents: vec![extent(5, 1), extent(3, 1)], ..good() }),
        ("overlapping", NewCell { extents: vec![extent(5, 1), extent(5, 1)], ..good() }),
        ("too few blocks", NewCell { extents: vec![extent(0, 1)], ..good() }),
        ("length of no cell", NewCell { plain_bytes: 4095, ..good() }),
        ("nothing", NewCell { plain_bytes: 0, extents: Vec::new(), data: Vec::new().into(), ..good() }),
        ("cut off", NewCell { data: good().data.slice(..8191), ..good() }),
        ("not zstd", NewCell { codec: Codec::Zstd, ..good() }),
    ];
    for (what, cell) in bad {
        let error = backup.push("sda", vec![good(), cell], Vec::new()).await.expect_err(what);
        assert!(error.is_invalid_input(), "{what}: {error:?}");
    }
    let zeros = [
        vec![extent(256, 1)],
        vec![extent(0, 0)],
        vec![extent(3, 1), extent(1, 1)],
        vec![extent(u64::MAX, 9)],
    ];
    for zeros in zeros {
        let error = backup.push("sda", vec![good()], zeros).await.unwrap_err();
        assert!(error.is_invalid_input(), "{error:?}");
    }
    assert!(backup.push("sdb", vec![good()], Vec::new()).await.unwrap_err().is_invalid_input());
    backup.flush().await.unwrap();
    assert!(!backup.disk_base("sda").unwrap().has_overlay, "a part of a bad frame was taken");
}

/// A frame that decodes to its length but is far longer must not get into a segment: the directory would not read.
#[tokio::test(flavor = "multi_thread")]
async fn cells_that_compression_made_longer_are_refused() {
    let test = TestVault::new().await;
    let image = Image::noise(41, MIB);
    let backup = begin(&test.vault, request(Uuid::new_v4(), &[("sda", &image)])).await.unwrap();
    let (_, frame) = encode_cell(vec![7; 4096], 1);
    for padding in [5_000_usize, 2_000_000] {
        // A skippable frame: zstd reads over it.
        let mut data = frame.clone();
        data.extend_from_slice(&0x184d_2a50_u32.to_le_bytes());
        data.extend_from_slice(&u32::try_from(padding).unwrap().to_le_bytes());
        data.resize(data.len() + padding, 0);
        let cell =
            NewCell { codec: Codec::Zstd, plain_bytes: 4096, extents: vec![extent(9, 1)], data: data.into() };
        let error = backup.push("sda", vec![cell], Vec::new()).await.unwrap_err();
        assert!(error.is_invalid_input(), "{error:?}");
    }
    let point = finish(&backup, &[("sda", &image)]).await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
}

/// There is no point that nobody could read.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_large_is_refused() {
    let test = TestVault::new().await;
    let mut large = request(Uuid::new_v4(), &[("sda", &Image::zeros(MIB))]);
    large.disks[0].size_bytes = 1 << 63;
    let machine = large.machine;
    let error = test.vault.begin(large.clone()).await.unwrap_err();
    assert!(error.is_invalid_input(), "{error:?}");
    assert!(test.vault.unconcluded(machine).await.unwrap().is_empty());
    large.disks[0].size_bytes -= 1;
    begin(&test.vault, large).await.unwrap();
}

/// Blocks that were never sent are no zeros: without them there is no point.
#[tokio::test(flavor = "multi_thread")]
async fn uncovered_blocks_are_no_point() {
    let test = TestVault::new().await;
    let image = Image::noise(42, MIB);
    let blocks: Vec<usize> = (0..image.blocks()).collect();
    for missing in [0, 100, image.blocks() - 1] {
        // A machine of its own each time: nothing is taken over.
        let machine = Uuid::new_v4();
        let backup = begin(&test.vault, request(machine, &[("sda", &image)])).await.unwrap();
        let sent: Vec<usize> = blocks.iter().copied().filter(|block| *block != missing).collect();
        push_blocks(&backup, "sda", &image, &sent).await.unwrap();
        match backup.prepare(&[]).await {
            Err(error @ VaultError::NotCovered { .. }) => {
                assert!(error.is_invalid_input() && !error.is_retryable());
                assert!(error.to_string().contains(&missing.to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert!(test.vault.points(machine).await.unwrap().is_empty());
    }
}

/// After the deltas were written, what comes is refused: it would be acknowledged and not be in the point.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_after_prepare() {
    let test = TestVault::new().await;
    let image = Image::noise(43, MIB);
    let backup = begin(&test.vault, request(Uuid::new_v4(), &[("sda", &image)])).await.unwrap();
    let blocks: Vec<usize> = (0..image.blocks()).collect();
    push_blocks(&backup, "sda", &image, &blocks).await.unwrap();
    let prepared = backup.prepare(&[]).await.unwrap();
    let refused = push_blocks(&backup, "sda", &image, &[1]).await;
    match refused.map(drop) {
        Err(VaultError::BadInput { detail }) => assert_eq!(detail, "the backup is being committed"),
        other => panic!("{other:?}"),
    }
    let point = prepared.commit().await.unwrap();
    restore_disk(&test.vault, &point, "sda", &image).await;
}
