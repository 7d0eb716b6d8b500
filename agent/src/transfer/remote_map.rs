//! Block maps that come from the gateway, fed to the scan as it goes: never more than a few runs in memory.

use std::time::Duration;

use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use holdfast_proto::v1::{BlockMapRun, MapLayer, ReadBlockMapRequest, block_map_run::Blocks};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::base::{HASH_BYTES, MapBlocks, MapMessage, MapRun};
use super::error::TransferError;

/// Runs (of at most 1 MiB each) that wait for the scan.
pub(super) const QUEUED_RUNS: usize = 2;
/// Largest run that is accepted, in bytes of hashes.
const MAX_RUN_BYTES: usize = 1 << 20;

/// Reads one layer of a disk's map to its end.
///
/// # Errors
/// If the stream breaks, stands still, or its runs are not in order. A scan that needs no more is no error.
pub(super) async fn feed(
    mut client: TransferServiceClient<Channel>,
    transfer_id: String,
    disk_name: String,
    layer: MapLayer,
    stall_timeout: Duration,
    runs: mpsc::Sender<MapMessage>,
) -> Result<(), TransferError> {
    const WHAT: &str = "read the block map";
    let request = ReadBlockMapRequest { transfer_id, disk_name, layer: layer.into() };
    let late = |_| TransferError::Timeout { what: WHAT };
    let failed = |status| TransferError::of_status(WHAT, status);
    let mut stream = tokio::time::timeout(stall_timeout, client.read_block_map(request))
        .await
        .map_err(late)?
        .map_err(failed)?
        .into_inner();
    let mut next_block = 0;
    while let Some(run) =
        tokio::time::timeout(stall_timeout, stream.message()).await.map_err(late)?.map_err(failed)?
    {
        let run = check(run, next_block)?;
        next_block = run.end();
        if runs.send(MapMessage::Run(run)).await.is_err() {
            return Ok(());
        }
    }
    // The scan may have ended without the last runs.
    let _ = runs.send(MapMessage::End).await;
    Ok(())
}

fn check(run: BlockMapRun, next_block: u64) -> Result<MapRun, TransferError> {
    let blocks = match run.blocks {
        Some(Blocks::Hashes(hashes))
            if !hashes.is_empty()
                && hashes.len() <= MAX_RUN_BYTES
                && hashes.len().is_multiple_of(HASH_BYTES) =>
        {
            MapBlocks::Hashes(hashes)
        }
        Some(Blocks::ZeroCount(count)) if count > 0 => MapBlocks::Zeros(count),
        _ => return Err(TransferError::protocol("a run of the block map has a wrong length")),
    };
    let checked = MapRun { first_block: run.first_block, blocks };
    if checked.first_block < next_block || checked.first_block.checked_add(checked.block_count()).is_none() {
        return Err(TransferError::protocol("the runs of the block map are not in order"));
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_block: u64, blocks: Option<Blocks>) -> BlockMapRun {
        BlockMapRun { first_block, blocks }
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        check(run(3, Some(Blocks::Hashes(vec![0; 16].into()))), 3).unwrap();
        check(run(5, Some(Blocks::ZeroCount(7))), 3).unwrap();
        for (wrong, next_block) in [
            (run(0, None), 0),
            (run(0, Some(Blocks::ZeroCount(0))), 0),
            (run(0, Some(Blocks::Hashes(vec![0; 15].into()))), 0),
            (run(0, Some(Blocks::Hashes(vec![].into()))), 0),
            (run(0, Some(Blocks::Hashes(vec![0; MAX_RUN_BYTES + 8].into()))), 0),
            (run(2, Some(Blocks::ZeroCount(1))), 3),
            (run(u64::MAX, Some(Blocks::ZeroCount(2))), 0),
        ] {
            assert!(check(wrong, next_block).is_err());
        }
    }
}
