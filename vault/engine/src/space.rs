use rustix::fs::statvfs;

use crate::store::on_disk;
use crate::{Vault, VaultError};

impl Vault {
    /// Bytes that the file system of the vault's directory has left for it. `None` if the storage is no directory.
    ///
    /// # Errors
    /// If the file system does not tell.
    pub async fn free_bytes(&self) -> Result<Option<u64>, VaultError> {
        let Some(root) = self.storage().root().map(ToOwned::to_owned) else { return Ok(None) };
        let system = on_disk(move || Ok(statvfs(&root)?))
            .await
            .map_err(|source| VaultError::storage("look for the free space of", "", source))?;
        Ok(Some(system.f_bavail.saturating_mul(system.f_frsize)))
    }
}
