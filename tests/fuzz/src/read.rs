//! Reads a disk back as a restore does, with what a reader relies on.

use futures::TryStreamExt as _;
use holdfast_vault_engine::{
    BLOCK_SIZE, Extent, MapBlocks, MapRun, Point, Vault, VaultError, Window, cell_hash, decode_cell,
};

/// Blocks that are still read into memory.
const MAX_KEPT: u64 = 1024;
/// Windows of a disk that are read: one may claim to have 2^36.
const WINDOWS: usize = 3;

/// Reads the beginning of a disk; all of a small one, whose content is answered.
///
/// # Errors
/// Of the vault.
///
/// # Panics
/// If what the engine answers is not what it promises.
pub async fn read_disk(vault: &Vault, point: &Point, disk: &str) -> Result<Option<Vec<u8>>, VaultError> {
    let reader = vault.open_disk(point, disk).await?;
    let size = reader.size_bytes();
    let blocks = size.div_ceil(BLOCK_SIZE as u64);
    let mut content =
        (blocks <= MAX_KEPT).then(|| vec![0; usize::try_from(blocks).expect("few") * BLOCK_SIZE]);
    let mut covered: Vec<Extent> = Vec::new();
    let mut items = 0;
    let mut windows = std::pin::pin!(reader.windows());
    while let Some(window) = windows.try_next().await? {
        note(&window, &mut covered, content.as_deref_mut());
        items += 1;
        if content.is_none() && items >= WINDOWS {
            return Ok(None);
        }
    }
    covered.sort_unstable();
    let mut at = 0;
    for extent in covered {
        assert_eq!(extent.first_block, at, "each block comes exactly once");
        at = extent.end().expect("extents end");
    }
    assert_eq!(at, blocks, "every block comes");
    Ok(content.map(|mut content| {
        content.truncate(usize::try_from(size).expect("few"));
        content
    }))
}

fn note(window: &Window, covered: &mut Vec<Extent>, mut content: Option<&mut [u8]>) {
    covered.extend(&window.zeros);
    for cell in &window.cells {
        let plain = decode_cell(cell.codec, cell.plain_bytes, &cell.data);
        // A restore refuses a cell that does not decode to its hash; that is for it to find out.
        let plain = plain.ok().filter(|plain| cell_hash(plain) == cell.plain_hash);
        for piece in &cell.pieces {
            covered.push(piece.extent);
            let start = piece.cell_block as usize * BLOCK_SIZE;
            let len = usize::try_from(piece.extent.block_count).expect("few") * BLOCK_SIZE;
            assert!(start + len <= cell.plain_bytes as usize, "pieces lie in their cell");
            if let (Some(content), Some(plain)) = (content.as_deref_mut(), &plain) {
                let at = usize::try_from(piece.extent.first_block).expect("few") * BLOCK_SIZE;
                content[at..at + len].copy_from_slice(&plain[start..start + len]);
            }
        }
    }
}

/// Checks one more run of a map; answers the block after it.
///
/// # Panics
/// If the runs do not ascend, or one is empty or too long.
#[must_use]
pub fn check_run(run: &MapRun, at: u64) -> u64 {
    assert!(run.first_block >= at, "runs ascend");
    let count = match &run.blocks {
        MapBlocks::Zero(count) => *count,
        MapBlocks::Hashes(hashes) => {
            assert!(hashes.len().is_multiple_of(8) && hashes.len() <= 1 << 20, "runs are bounded");
            hashes.len() as u64 / 8
        }
    };
    assert!(count > 0, "runs have blocks");
    run.first_block.checked_add(count).expect("runs end")
}
