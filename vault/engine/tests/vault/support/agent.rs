//! What an agent does: compares a disk with the vault's map and sends what differs.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use holdfast_vault_engine::{
    BLOCK_SIZE, Backup, BlockHasher, MAX_CELL_BYTES, MapBlocks, MapLayer, NewCell, Receipt, VaultError,
    encode_cell,
};

use super::image::{Image, extents};

/// Cells per frame.
const FRAME_CELLS: usize = 8;

/// Sends every block that the merged map does not have; answers how many those were.
pub(crate) async fn send_changes(backup: &Backup, disk: &str, image: &Image) -> Result<usize, VaultError> {
    let changed = changed_blocks(backup, disk, image).await?;
    for receipt in push_blocks(backup, disk, image, &changed).await? {
        // Acknowledgements come with a full segment or a flush; the commit waits for both.
        drop(receipt);
    }
    Ok(changed.len())
}

/// Blocks that an agent would send.
pub(crate) async fn changed_blocks(
    backup: &Backup,
    disk: &str,
    image: &Image,
) -> Result<Vec<usize>, VaultError> {
    let base = backup.disk_base(disk)?;
    let hasher = BlockHasher::new(&base.block_hash_key);
    let known = read_map(backup, disk, MapLayer::Merged).await?;
    let base_blocks = usize::try_from(base.base_size_bytes).unwrap().div_ceil(BLOCK_SIZE);
    for block in 0..base_blocks {
        assert!(known.contains_key(&(block as u64)), "the merged map misses block {block} of the base");
    }
    Ok((0..image.blocks())
        .filter(|block| known.get(&(*block as u64)) != Some(&hasher.hash(&image.block(*block))))
        .collect())
}

/// A map, block by block; checks that runs ascend without overlap and are not too long.
pub(crate) async fn read_map(
    backup: &Backup,
    disk: &str,
    layer: MapLayer,
) -> Result<HashMap<u64, u64>, VaultError> {
    let mut known = HashMap::new();
    let mut at = 0;
    let mut runs = std::pin::pin!(backup.read_map(disk, layer).await?);
    while let Some(run) = runs.try_next().await? {
        assert!(run.first_block >= at, "runs overlap or are out of order");
        at = run.first_block;
        match run.blocks {
            MapBlocks::Zero(count) => {
                for _ in 0..count {
                    known.insert(at, 0);
                    at += 1;
                }
            }
            MapBlocks::Hashes(bytes) => {
                assert!(!bytes.is_empty() && bytes.len() <= 1 << 20 && bytes.len().is_multiple_of(8));
                for hash in bytes.as_chunks::<8>().0 {
                    known.insert(at, u64::from_le_bytes(*hash));
                    at += 1;
                }
            }
        }
    }
    Ok(known)
}

/// Sends these blocks: zeros as extents, the others gathered in block order into full cells.
pub(crate) async fn push_blocks(
    backup: &Backup,
    disk: &str,
    image: &Image,
    blocks: &[usize],
) -> Result<Vec<Receipt>, VaultError> {
    let (zeros, data): (Vec<usize>, Vec<usize>) =
        blocks.iter().partition(|block| image.block(**block) == [0; BLOCK_SIZE]);
    let mut receipts = Vec::new();
    if !zeros.is_empty() {
        receipts.push(backup.push(disk, Vec::new(), extents(&zeros)).await?);
    }
    for frame in data.chunks(FRAME_CELLS * MAX_CELL_BYTES / BLOCK_SIZE) {
        let cells = frame.chunks(MAX_CELL_BYTES / BLOCK_SIZE).map(|blocks| cell(image, blocks)).collect();
        receipts.push(backup.push(disk, cells, Vec::new()).await?);
    }
    Ok(receipts)
}

pub(crate) fn cell(image: &Image, blocks: &[usize]) -> NewCell {
    let plain = blocks.iter().map(|block| image.block(*block)).collect::<Vec<_>>().concat();
    let plain_bytes = u32::try_from(plain.len()).unwrap();
    let (codec, data) = encode_cell(plain, 1);
    NewCell { codec, plain_bytes, extents: extents(blocks), data: data.into() }
}
