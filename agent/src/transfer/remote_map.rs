//! Block maps that come from the gateway, fed to the scan as it goes: never more than a few runs in memory.

use std::time::Duration;

use holdfast_proto::v1::transfer_service_client::TransferServiceClient;
use holdfast_proto::v1::{MapLayer, ReadBlockMapRequest};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::base::MapMessage;
use super::error::TransferError;
use super::map_run::MapRun;

/// Runs (of at most 1 MiB each) that wait for the scan.
pub(super) const QUEUED_RUNS: usize = 2;

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
        let run = MapRun::from_wire(run, next_block).map_err(TransferError::protocol)?;
        next_block = run.end();
        if runs.send(MapMessage::Run(run)).await.is_err() {
            return Ok(());
        }
    }
    // The scan may have ended without the last runs.
    let _ = runs.send(MapMessage::End).await;
    Ok(())
}
