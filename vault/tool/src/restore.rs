//! Writing a disk to a file: `FILE.partial` first, which becomes FILE when all of it is there, verified and durable.

mod target;

use std::sync::Arc;

use futures::TryStreamExt as _;
use holdfast_vault_engine::{BLOCK_SIZE, StoredCell, Vault, Window, cell_hash, decode_cell};
use holdfast_vault_format::block::blocks_of;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::RestoreOptions;
use crate::error::ToolError;
use crate::find;
use target::Target;

/// Windows that are decoded and written at once; each holds a few MiB.
const WRITERS: usize = 4;

pub(crate) async fn restore(vault: &Vault, options: RestoreOptions) -> Result<(), ToolError> {
    // Before the vault is searched: a refusal should not take minutes.
    target::check(&options.to, options.overwrite)?;
    let point = find::point(vault, &options.point).await?;
    let disk = find::disk(&point, options.disk.as_deref())?;
    let reader = vault.open_disk(&point, &disk.name).await.map_err(ToolError::Read)?;
    let target = Arc::new(Target::create(&options.to, reader.size_bytes())?);
    let bar = progress_bar(reader.size_bytes());
    let result = write_all(reader.windows(), &target, &bar).await;
    bar.finish_and_clear();
    let expected = blocks_of(disk.size_bytes);
    let result = result.and_then(|found| {
        if found == expected { Ok(()) } else { Err(ToolError::Coverage { expected, found }) }
    });
    let overwrite = options.overwrite;
    let finish = move || match result {
        Ok(()) => target.publish(overwrite),
        Err(error) => {
            target.discard();
            Err(error)
        }
    };
    tokio::task::spawn_blocking(finish).await.map_err(ToolError::Worker)??;
    eprintln!("restored disk {} of point {} to {}", disk.name, point.id, options.to.display());
    Ok(())
}

/// Answers how many blocks there were.
async fn write_all(
    windows: impl futures::Stream<Item = Result<Window, holdfast_vault_engine::VaultError>>,
    target: &Arc<Target>,
    bar: &ProgressBar,
) -> Result<u64, ToolError> {
    windows
        .map_err(ToolError::Read)
        .map_ok(|window| async {
            let target = Arc::clone(target);
            let blocks = tokio::task::spawn_blocking(move || write_window(&target, window))
                .await
                .map_err(ToolError::Worker)??;
            bar.inc(blocks * BLOCK_SIZE as u64);
            Ok(blocks)
        })
        .try_buffer_unordered(WRITERS)
        .try_fold(0, |sum, blocks| async move { Ok(sum + blocks) })
        .await
}

fn write_window(target: &Target, window: Window) -> Result<u64, ToolError> {
    // Zeros are holes: the file was empty.
    let mut blocks: u64 = window.zeros.iter().map(|extent| extent.block_count).sum();
    for cell in &window.cells {
        blocks += write_cell(target, cell)?;
    }
    Ok(blocks)
}

fn write_cell(target: &Target, cell: &StoredCell) -> Result<u64, ToolError> {
    let first_byte = cell.pieces.first().map_or(0, |piece| piece.extent.first_block * BLOCK_SIZE as u64);
    let plain = decode_cell(cell.codec, cell.plain_bytes, &cell.data)
        .map_err(|source| ToolError::Cell { first_byte, source })?;
    if cell_hash(&plain) != cell.plain_hash {
        return Err(ToolError::Content { first_byte });
    }
    let mut blocks = 0;
    for piece in &cell.pieces {
        let content = usize::try_from(piece.extent.block_count).ok().and_then(|count| {
            let start = (piece.cell_block as usize).checked_mul(BLOCK_SIZE)?;
            plain.get(start..start.checked_add(count.checked_mul(BLOCK_SIZE)?)?)
        });
        let content = content.ok_or(ToolError::Content { first_byte })?;
        target.write(piece.extent.first_block, content)?;
        blocks += piece.extent.block_count;
    }
    Ok(blocks)
}

fn progress_bar(size_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size_bytes), ProgressDrawTarget::stderr());
    let template = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
