//! Space that is set aside in a vault's directory: where not a byte is free, points can still be deleted and garbage collected.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tracing::warn;

use holdfast_vault_format::container::Kind;

use crate::store::on_disk;
use crate::{Vault, VaultError};

const NAME: &str = "reserve";
/// What the objects of a collection may take, with room for their file system's own needs.
const MOST: u64 = 64 << 20;
/// Of a small file system, this part.
const PART: u64 = 64;
/// Freed at once: others may be faster to use it, so not all of it.
const STEP: u64 = 1 << 20;

impl Vault {
    /// Sets 64 MiB aside, or a 64th of a smaller file system, as far as that is not done. Nothing if the storage is no
    /// directory. Not having it is no error: it is logged.
    pub async fn keep_reserve(&self) {
        let Some(path) = self.storage().root().map(|root| root.join(NAME)) else { return };
        match tokio::task::spawn_blocking(move || keep(&path)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(%error, "no space can be set aside: if the vault fills up, garbage collection may not work");
            }
            Err(error) => warn!(%error, "no space is set aside"),
        }
    }

    /// Whether objects of this kind make space, or may.
    pub(crate) fn may_spend(kind: Kind) -> bool {
        matches!(kind, Kind::Event | Kind::Collection | Kind::Condemned | Kind::Collected)
    }

    /// Frees some of what is set aside; `false` if nothing is left.
    pub(crate) async fn spend_reserve(&self) -> Result<bool, VaultError> {
        let Some(path) = self.storage().root().map(|root| root.join(NAME)) else { return Ok(false) };
        on_disk(move || spend(&path))
            .await
            .map_err(|source| VaultError::storage("free some of", NAME, source))
    }
}

fn keep(path: &Path) -> io::Result<()> {
    let file = File::options().create(true).append(true).open(path)?;
    let system = statvfs(path)?;
    let wanted = MOST.min(system.f_blocks * system.f_frsize / PART);
    if file.metadata()?.len() < wanted {
        fallocate(&file, FallocateFlags::empty(), 0, wanted)?;
    }
    Ok(())
}

fn spend(path: &Path) -> io::Result<bool> {
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let left = file.metadata()?.len();
    if left == 0 {
        return Ok(false);
    }
    file.set_len(left.saturating_sub(STEP))?;
    // Until then a file system may not give it to others.
    file.sync_all()?;
    Ok(true)
}
