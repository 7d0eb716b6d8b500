//! Writing a disk to a file: `FILE.partial` first, which becomes FILE when all of it is there, verified and durable.

use std::sync::Arc;

use futures::TryStreamExt as _;
use holdfast_restore::{Cell, Target};
use holdfast_vault_engine::{BLOCK_SIZE, StoredCell, Vault, Window};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::RestoreOptions;
use crate::error::ToolError;
use crate::find;

/// Windows that are decoded and written at once; each holds a few MiB.
const WRITERS: usize = 4;

pub(crate) async fn restore(vault: &Vault, options: RestoreOptions) -> Result<(), ToolError> {
    // Before the vault is searched: a refusal should not take minutes.
    holdfast_restore::check(&options.to, options.existing())?;
    let point = find::point(vault, &options.point).await?;
    let disk = find::disk(&point, options.disk.as_deref())?;
    let reader = vault.open_disk(&point, &disk.name).await.map_err(ToolError::Read)?;
    let target = Arc::new(Target::create(&options.to, disk.size_bytes, options.existing())?);
    let bar = progress_bar(disk.size_bytes);
    let written = write_all(reader.windows(), &target, &bar).await;
    bar.finish_and_clear();
    written?;
    tokio::task::spawn_blocking(move || target.finish()).await.map_err(ToolError::Worker)??;
    eprintln!("restored disk {} of point {} to {}", disk.name, point.id, options.to.display());
    Ok(())
}

async fn write_all(
    windows: impl futures::Stream<Item = Result<Window, holdfast_vault_engine::VaultError>>,
    target: &Arc<Target>,
    bar: &ProgressBar,
) -> Result<(), ToolError> {
    windows
        .map_err(ToolError::Read)
        .map_ok(|window| async {
            let target = Arc::clone(target);
            let blocks = tokio::task::spawn_blocking(move || write_window(&target, window))
                .await
                .map_err(ToolError::Worker)??;
            bar.inc(blocks * BLOCK_SIZE as u64);
            Ok(())
        })
        .try_buffer_unordered(WRITERS)
        .try_collect()
        .await
}

/// Answers how many blocks it was.
fn write_window(target: &Target, window: Window) -> Result<u64, ToolError> {
    let (mut blocks, mut memory) = (0, Vec::new());
    for extent in window.zeros {
        target.zeros(extent)?;
        blocks += extent.block_count;
    }
    for cell in &window.cells {
        blocks += write_cell(target, cell, &mut memory)?;
    }
    Ok(blocks)
}

fn write_cell(target: &Target, cell: &StoredCell, memory: &mut Vec<u8>) -> Result<u64, ToolError> {
    let pieces: Vec<_> = cell.pieces.iter().map(|piece| (piece.cell_block, piece.extent)).collect();
    let cell = Cell {
        codec: cell.codec,
        plain_bytes: cell.plain_bytes,
        plain_hash: &cell.plain_hash,
        data: &cell.data,
        pieces: &pieces,
    };
    Ok(target.write_cell(&cell, memory)?)
}

fn progress_bar(size_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size_bytes), ProgressDrawTarget::stderr());
    let template = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
