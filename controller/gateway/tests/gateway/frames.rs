//! Frames that are not what they should be.

use bytes::Bytes;
use tonic::Code;

use holdfast_proto::error::detail_of;
use holdfast_proto::v1::{Cell, CellFrame, Codec, MapLayer};

use crate::bed::Bed;
use crate::image::{blocks, encoded, extent, frame, frames, noise};

const BLOCK: usize = 4096;
/// Of the disk.
const BLOCKS: u64 = 64;

fn good() -> Cell {
    encoded(&noise(9, 2 * BLOCK), vec![extent(3, 2)])
}

fn wrong_frames(transfer: &str) -> Vec<(&'static str, CellFrame)> {
    let with = |cell: Cell| frame(transfer, "data", vec![good(), cell]);
    let zeros = |zeros: &[(u64, u64)]| CellFrame {
        zero_extents: zeros.iter().map(|(first, count)| extent(*first, *count)).collect(),
        ..frame(transfer, "data", vec![good()])
    };
    let plain = noise(5, 2 * BLOCK);
    let cell = |extents: &[(u64, u64)]| {
        encoded(&plain, extents.iter().map(|(at, count)| extent(*at, *count)).collect())
    };
    // A zstd frame of 64 MiB of zeros that claims to be two blocks: RLE blocks of 128 KiB.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    for last in std::iter::repeat_n(0_u32, 511).chain([1]) {
        bomb.extend_from_slice(&((131_072 << 3) | (1 << 1) | last).to_le_bytes()[..3]);
        bomb.push(0);
    }
    vec![
        (
            "an unknown disk",
            CellFrame { disk_name: "other".to_owned(), ..frame(transfer, "data", vec![good()]) },
        ),
        ("outside the disk", with(cell(&[(BLOCKS - 1, 2)]))),
        ("far outside the disk", with(cell(&[(u64::MAX, 2)]))),
        ("too many blocks", with(cell(&[(0, u64::MAX)]))),
        ("an empty extent", with(cell(&[(0, 0), (1, 2)]))),
        ("extents out of order", with(cell(&[(9, 1), (7, 1)]))),
        ("extents that overlap", with(cell(&[(7, 2), (8, 1)]))),
        ("fewer blocks than bytes", with(cell(&[(7, 1)]))),
        ("more blocks than bytes", with(cell(&[(7, 3)]))),
        ("no extents", with(Cell { plain_bytes: 0, data: Bytes::new(), ..cell(&[]) })),
        ("no codec", with(Cell { codec: 0, ..cell(&[(7, 2)]) })),
        ("an unknown codec", with(Cell { codec: 77, ..cell(&[(7, 2)]) })),
        ("not zstd", with(Cell { codec: Codec::Zstd.into(), ..cell(&[(7, 2)]) })),
        ("raw of another length", with(Cell { data: plain[1..].to_vec().into(), ..cell(&[(7, 2)]) })),
        ("a bomb", with(Cell { codec: Codec::Zstd.into(), data: bomb.into(), ..cell(&[(7, 2)]) })),
        ("a cell of 33 blocks", with(encoded(&noise(1, 33 * BLOCK), vec![extent(7, 33)]))),
        ("zeros outside the disk", zeros(&[(BLOCKS, 1)])),
        ("zeros out of order", zeros(&[(9, 1), (7, 1)])),
        ("no zeros", zeros(&[(9, 0)])),
        ("the first frame is 0", CellFrame { frame: 0, ..frame(transfer, "data", vec![good()]) }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_wrong_frame_is_taken() {
    let bed = Bed::new().await;
    let image = noise(1, usize::try_from(BLOCKS).unwrap() * BLOCK);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    for (what, wrong) in wrong_frames(&open.transfer_id) {
        let status = agent.try_send(vec![wrong]).await.expect_err(what);
        assert_eq!(
            (status.code(), detail_of(&status).code.as_str()),
            (Code::InvalidArgument, "invalid_cell"),
            "{what}"
        );
        let overlay = agent.map(&open.transfer_id, "data", MapLayer::Overlay).await;
        assert!(overlay.is_empty(), "{what}: {overlay:?}");
    }
    // The transfer goes on.
    agent.back_up(&[("data", &image)]).await;
    assert_eq!(bed.points(agent.machine).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_keep_their_order_and_their_transfer() {
    let bed = Bed::new().await;
    let image = noise(1, 3 << 20);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    let all = frames(&open.transfer_id, "data", blocks(&image));
    let repeated = vec![all[0].clone(), all[1].clone(), all[1].clone()];
    let mixed = vec![all[0].clone(), CellFrame { transfer_id: "other".to_owned(), ..all[1].clone() }];
    for wrong in [repeated, mixed] {
        let status = agent.try_send(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    // Gaps are no offence.
    let gaps = vec![CellFrame { frame: 5, ..all[0].clone() }, CellFrame { frame: 900, ..all[1].clone() }];
    assert_eq!(agent.try_send(gaps).await.unwrap().into_iter().collect::<Vec<_>>(), [5, 900]);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_frame_is_refused() {
    let bed = Bed::new().await;
    let image = noise(1, 8 << 20);
    let agent = bed.agent(&[("data", &image)]);
    let open = agent.open().await;
    for cells in [25, 40] {
        let all = frames(&open.transfer_id, "data", blocks(&image));
        let cells: Vec<Cell> = all.into_iter().flat_map(|frame| frame.cells).take(cells).collect();
        let status = agent.try_send(vec![frame(&open.transfer_id, "data", cells)]).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(["invalid_cell", "frame_too_large"].contains(&detail_of(&status).code.as_str()));
    }
    assert!(agent.map(&open.transfer_id, "data", MapLayer::Overlay).await.is_empty());
    let tiny = encoded(&noise(1, BLOCK), vec![extent(0, 1)]);
    let many = CellFrame { cells: Vec::new(), ..frame(&open.transfer_id, "data", vec![tiny]) };
    let zero_extents = (0..70_000).map(|at| extent(at * 2, 1)).collect();
    let status = agent.try_send(vec![CellFrame { zero_extents, ..many }]).await.unwrap_err();
    assert_eq!(detail_of(&status).code, "invalid_cell");
}
