//! A collection as a gateway makes it.

use holdfast_vault_engine::{CollectOptions, CollectionProgress, CollectionReport, Vault, VaultError};

pub(crate) async fn collect_garbage(
    vault: &Vault,
    options: CollectOptions,
    mut progress: impl FnMut(CollectionProgress) + Send,
) -> Result<CollectionReport, VaultError> {
    let mut run = vault.begin_collection(options).await?;
    run.look(&mut progress).await?;
    run.compact(&mut progress).await?;
    run.condemn().await?;
    run.look_again().await?;
    run.sweep().await
}
