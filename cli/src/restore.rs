//! `restore`: the disk comes as authenticated cells, is written to FILE.partial, checked to be complete, and only then
//! gets its name.

mod frame;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tonic::Streaming;

use holdfast_proto::v1::{DiskFrame, ReadDiskRequest, disk_frame};
use holdfast_restore::Target;
use holdfast_vault_format::block::blocks_of;

use crate::args::RestoreArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::interrupt::unless_interrupted;
use crate::output::{Output, size};
use crate::progress::Progress;
use frame::bad_stream;

/// Frames that are decoded and written at once; each is about 1 MiB.
const WRITING: usize = 8;
/// How long the controller may send nothing: its storage may be slow, but it always reads.
const SILENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Serialize)]
struct Restored {
    point: String,
    disk: String,
    file: String,
    size_bytes: u64,
}

/// Refuses a file that is there before the controller is asked anything.
pub(crate) fn check_target(args: &RestoreArgs) -> Result<(), CliError> {
    Ok(holdfast_restore::check(&args.to, args.existing())?)
}

/// Restores; a signal ends it without leaving anything behind.
pub(crate) async fn run(client: Client, output: Output, args: RestoreArgs) -> Result<(), CliError> {
    unless_interrupted(restore(client, output, args)).await
}

async fn restore(client: Client, output: Output, args: RestoreArgs) -> Result<(), CliError> {
    let existing = args.existing();
    let request = ReadDiskRequest { point: args.point, disk_name: args.disk.unwrap_or_default() };
    let mut frames = client.restores().read_disk(request).await?.into_inner();
    let Some(disk_frame::Kind::Start(start)) = next(&mut frames).await?.and_then(|frame| frame.kind) else {
        return Err(bad_stream("it does not start with the disk's size"));
    };
    let target = Arc::new(Target::create(&args.to, start.size_bytes, existing)?);
    let mut progress = Progress::new(
        output,
        "restore          {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}",
    );
    let mut done = 0;
    let mut count = |bytes: u64| {
        done += bytes;
        let line = || format!("restore: {}/{} written", size(done), size(start.size_bytes));
        progress.show((done, start.size_bytes), String::new(), line);
    };
    let mut writing = JoinSet::new();
    let mut end = None;
    while let Some(frame) = next(&mut frames).await? {
        match frame.kind {
            Some(disk_frame::Kind::Cells(cells)) => {
                if writing.len() >= WRITING {
                    count(joined(writing.join_next().await)?);
                }
                let target = Arc::clone(&target);
                writing.spawn_blocking(move || frame::write(&target, &cells));
            }
            Some(disk_frame::Kind::End(last)) => {
                end = Some(last);
                break;
            }
            Some(disk_frame::Kind::Start(_)) | None => return Err(bad_stream("an unexpected frame")),
        }
    }
    while let Some(written) = writing.join_next().await {
        count(joined(Some(written))?);
    }
    drop(progress);
    let end = end.ok_or_else(|| bad_stream("it ended early"))?;
    if end.block_count != blocks_of(start.size_bytes) {
        return Err(bad_stream("its end does not fit its size"));
    }
    tokio::task::spawn_blocking(move || target.finish())
        .await
        .map_err(|_| bad_stream("the writer stopped"))??;
    let restored = Restored {
        point: start.point_id,
        disk: start.disk_name,
        file: args.to.display().to_string(),
        size_bytes: start.size_bytes,
    };
    output.print(&restored, || {
        format!(
            "restored disk {} of point {} to {} ({})",
            restored.disk,
            restored.point,
            restored.file,
            size(restored.size_bytes)
        )
    })
}

async fn next(frames: &mut Streaming<DiskFrame>) -> Result<Option<DiskFrame>, CliError> {
    match tokio::time::timeout(SILENCE, frames.message()).await {
        Ok(frame) => Ok(frame?),
        Err(_) => Err(bad_stream("it stands still")),
    }
}

fn joined(written: Option<Result<Result<u64, CliError>, tokio::task::JoinError>>) -> Result<u64, CliError> {
    match written {
        None => Ok(0),
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(bad_stream("the writer stopped")),
    }
}
