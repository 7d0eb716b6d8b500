//! Where a vault's objects are kept.

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::VaultError;

/// Objects as files below `path`, which must exist. A file is durable, its directory entry too, before a write is
/// acknowledged.
pub fn directory(path: &Path) -> Result<Arc<dyn ObjectStore>, VaultError> {
    let store = LocalFileSystem::new_with_prefix(path).map_err(|source| VaultError::Directory {
        path: path.display().to_string(),
        source: std::io::Error::other(source),
    })?;
    Ok(Arc::new(store.with_fsync(true)))
}
