use futures::TryStreamExt as _;
use holdfast_vault_engine::{BLOCK_SIZE, Point, Vault, VaultError, cell_hash, decode_cell};

use super::Image;

/// Restores the disk named in `disk`, checking what a receiver checks: each cell's hash, every block exactly once.
pub(crate) async fn restore(vault: &Vault, point: &Point, disk: &str) -> Result<Image, VaultError> {
    let reader = vault.open_disk(point, disk).await?;
    let size = usize::try_from(reader.size_bytes()).unwrap();
    let blocks = size.div_ceil(BLOCK_SIZE);
    let mut content = vec![0xee_u8; blocks * BLOCK_SIZE];
    let mut seen = vec![false; blocks];
    let mut see = |first: u64, count: u64| {
        let range = usize::try_from(first).unwrap()..usize::try_from(first + count).unwrap();
        for slot in &mut seen[range.clone()] {
            assert!(!*slot, "a block came twice");
            *slot = true;
        }
        range.start * BLOCK_SIZE..range.end * BLOCK_SIZE
    };
    let mut windows = std::pin::pin!(reader.windows());
    while let Some(window) = windows.try_next().await? {
        for zeros in window.zeros {
            content[see(zeros.first_block, zeros.block_count)].fill(0);
        }
        for cell in window.cells {
            let plain =
                decode_cell(cell.codec, cell.plain_bytes, &cell.data).expect("an authenticated cell decodes");
            assert_eq!(cell_hash(&plain), cell.plain_hash, "an authenticated cell has its hash");
            for piece in cell.pieces {
                let at = piece.cell_block as usize * BLOCK_SIZE;
                let range = see(piece.extent.first_block, piece.extent.block_count);
                let len = range.len();
                content[range].copy_from_slice(&plain[at..at + len]);
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen), "a block never came");
    assert!(content[size..] == vec![0; content.len() - size], "the padding is not zeros");
    content.truncate(size);
    Ok(Image(content))
}

/// Restores and compares.
pub(crate) async fn restore_disk(vault: &Vault, point: &Point, disk: &str, truth: &Image) {
    let restored = restore(vault, point, disk).await.unwrap();
    assert!(restored == *truth, "disk {disk} of point {} came back different", point.seq);
}
