//! `restore`: the disk comes as authenticated cells, is written to FILE.partial, checked to be complete, and only then
//! gets its name.

mod target;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tonic::Streaming;

use holdfast_proto::v1::{self, DiskCells, DiskFrame, ReadDiskRequest, RestoredCell, disk_frame};
use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::{BLOCK_SIZE, Codec, cell_hash, decode_cell};

use crate::args::RestoreArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, size};
use target::Target;

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
    target::check(&args.to, args.overwrite)
}

/// Restores; a signal ends it without leaving anything behind.
pub(crate) async fn run(client: Client, output: Output, args: RestoreArgs) -> Result<(), CliError> {
    let listen = |kind| signal(kind).map_err(|source| CliError::Signals { source });
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::select! {
        restored = restore(client, output, args) => restored,
        _ = interrupt.recv() => Err(CliError::Interrupted),
        _ = terminate.recv() => Err(CliError::Interrupted),
        _ = hang_up.recv() => Err(CliError::Interrupted),
    }
}

async fn restore(client: Client, output: Output, args: RestoreArgs) -> Result<(), CliError> {
    let request = ReadDiskRequest { point: args.point, disk_name: args.disk.unwrap_or_default() };
    let mut frames = client.restores().read_disk(request).await?.into_inner();
    let Some(disk_frame::Kind::Start(start)) = next(&mut frames).await?.and_then(|frame| frame.kind) else {
        return Err(bad_stream("it does not start with the disk's size"));
    };
    let target = Arc::new(Target::create(&args.to, start.size_bytes, args.overwrite)?);
    let bar = progress(output, start.size_bytes);
    let mut writing = JoinSet::new();
    let mut end = None;
    while let Some(frame) = next(&mut frames).await? {
        match frame.kind {
            Some(disk_frame::Kind::Cells(cells)) => {
                if writing.len() >= WRITING {
                    bar.inc(joined(writing.join_next().await)?);
                }
                let target = Arc::clone(&target);
                writing.spawn_blocking(move || write(&target, cells));
            }
            Some(disk_frame::Kind::End(last)) => {
                end = Some(last);
                break;
            }
            Some(disk_frame::Kind::Start(_)) | None => return Err(bad_stream("an unexpected frame")),
        }
    }
    while let Some(written) = writing.join_next().await {
        bar.inc(joined(Some(written))?);
    }
    bar.finish_and_clear();
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

/// Decodes and writes one frame; answers how many bytes of the disk it was.
fn write(target: &Target, cells: DiskCells) -> Result<u64, CliError> {
    let mut blocks = 0;
    for extent in &cells.zero_extents {
        target.zeros(extent.first_block, extent.block_count)?;
        blocks += extent.block_count;
    }
    for cell in &cells.cells {
        let plain = decode(cell)?;
        for piece in &cell.pieces {
            let extent = piece.extent.as_ref().ok_or_else(|| bad_stream("a piece without its place"))?;
            let start = u64::from(piece.cell_block) * BLOCK_SIZE as u64;
            let bytes = extent
                .block_count
                .checked_mul(BLOCK_SIZE as u64)
                .and_then(|len| {
                    Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(len)?).ok()?)
                })
                .and_then(|range| plain.get(range))
                .ok_or_else(|| bad_stream("a piece outside its cell"))?;
            target.write(extent.first_block, bytes)?;
            blocks += extent.block_count;
        }
    }
    Ok(blocks * BLOCK_SIZE as u64)
}

fn decode(cell: &RestoredCell) -> Result<Cow<'_, [u8]>, CliError> {
    let codec = match cell.codec() {
        v1::Codec::Raw => Codec::Raw,
        v1::Codec::Zstd => Codec::Zstd,
        v1::Codec::Unspecified => return Err(bad_stream("a cell with an unknown codec")),
    };
    let plain =
        decode_cell(codec, cell.plain_bytes, &cell.data).map_err(|error| bad_stream(&error.to_string()))?;
    if cell_hash(&plain) == cell.plain_hash.as_slice() {
        Ok(plain)
    } else {
        Err(bad_stream("a cell does not match its hash"))
    }
}

fn joined(written: Option<Result<Result<u64, CliError>, tokio::task::JoinError>>) -> Result<u64, CliError> {
    match written {
        None => Ok(0),
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(bad_stream("the writer stopped")),
    }
}

fn progress(output: Output, size_bytes: u64) -> ProgressBar {
    let target =
        if output.draws_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(size_bytes), target);
    let template =
        "restore          {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn bad_stream(detail: &str) -> CliError {
    CliError::BadStream { detail: detail.to_owned() }
}
