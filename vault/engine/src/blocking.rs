use crate::VaultError;

/// Does what would keep the runtime's threads from other work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| VaultError::Worker { source })?
}
