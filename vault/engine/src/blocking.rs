use tokio::task::JoinSet;

use crate::VaultError;

/// Does what would keep the runtime's threads from other work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| VaultError::Worker { source })?
}

/// Ends without anybody waiting for it: whoever does not get on must keep no request in flight. Dropped, it is given up.
pub(crate) fn on_its_own<T: Send + 'static>(
    work: impl Future<Output = Result<T, VaultError>> + Send + 'static,
) -> impl Future<Output = Result<T, VaultError>> + Send + 'static {
    // Aborts what it runs when it is dropped.
    let mut task = JoinSet::new();
    async move {
        task.spawn(work);
        match task.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(source)) => Err(VaultError::Worker { source }),
            None => Err(VaultError::Broken),
        }
    }
}
