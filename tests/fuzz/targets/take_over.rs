//! The next backup of a machine whose objects hold what the fuzzer likes: its segments are taken over, its newest point is
//! built upon. It ends with a point that restores or with an error.
#![no_main]

use arbitrary::Unstructured;
use futures::TryStreamExt as _;
use holdfast_fuzz::read::{check_run, read_disk};
use holdfast_fuzz::vault::{block_on, open};
use holdfast_fuzz::{hostile, sample};
use holdfast_vault_engine::{Backup, Begun, Extent, MapLayer, Vault, VaultError};
use libfuzzer_sys::fuzz_target;

/// Runs of a map that are read: a base may claim to have 2^52 blocks.
const RUNS: usize = 50;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let Ok(objects) = hostile::machine(&mut Unstructured::new(data)) else { return };
    let (_store, vault) = open(objects);
    if let Err(error) = block_on(back_up(&vault, mode)) {
        // Broken: a name that the new backup's segment was to have is taken, which the next try gets around.
        let known = error.is_damage() || error.is_invalid_input() || matches!(error, VaultError::Broken);
        assert!(known, "what is in the vault is damage, not {error:?}");
    }
});

async fn back_up(vault: &Vault, mode: u8) -> Result<(), VaultError> {
    let blocks = u64::from(mode >> 3) + 1;
    let mut request = sample::request(1000, blocks);
    request.disks.truncate(1 + usize::from(mode & 1));
    let Begun::Open(backup) = vault.begin(request.clone()).await? else { return Ok(()) };
    for disk in &request.disks {
        read_maps(&backup, &disk.name).await?;
        let base = backup.disk_base(&disk.name)?;
        let known = base.base_size_bytes.div_ceil(4096).min(blocks);
        if mode & 2 == 0 && known < blocks {
            let extent = Extent { first_block: known, block_count: (blocks - known).min(4) };
            backup.push(&disk.name, vec![sample::cell(extent, 5)], Vec::new()).await?;
        }
        if mode & 4 == 0 && known < blocks {
            let extent = Extent { first_block: known, block_count: blocks - known };
            backup.push(&disk.name, Vec::new(), vec![extent]).await?;
        }
    }
    let prepared = backup.prepare(&[]).await?;
    let point = prepared.commit().await?;
    for disk in &request.disks {
        read_disk(vault, &point, &disk.name).await?;
    }
    Ok(())
}

async fn read_maps(backup: &Backup, disk: &str) -> Result<(), VaultError> {
    for layer in [MapLayer::Overlay, MapLayer::Merged] {
        let mut runs = std::pin::pin!(backup.read_map(disk, layer).await?);
        let (mut at, mut count) = (0, 0);
        while count < RUNS
            && let Some(run) = runs.try_next().await?
        {
            at = check_run(&run, at);
            count += 1;
        }
    }
    Ok(())
}
