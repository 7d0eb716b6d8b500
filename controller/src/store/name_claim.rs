//! Who takes the name of an object, where the vault's storage does not say.

use bytes::Bytes;
use futures::future::BoxFuture;
use uuid::Uuid;

use holdfast_vault_engine::{Arbiter, ArbiterError, Claim};

use super::{During, Store, StoreError};

impl Arbiter for Store {
    fn claim<'a>(&'a self, vault: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<Claim, ArbiterError>> {
        Box::pin(async move { Ok(self.claim_name(vault, claim).await?) })
    }

    fn release<'a>(&'a self, vault: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<(), ArbiterError>> {
        Box::pin(async move { Ok(self.release_name(vault, claim).await?) })
    }
}

impl Store {
    async fn claim_name(&self, vault: Uuid, claim: &Claim) -> Result<Claim, StoreError> {
        // The update changes nothing: it makes the row that is there visible, also one that was committed a moment ago.
        let (hash, content): (Vec<u8>, Option<Vec<u8>>) = sqlx::query_as(
            "INSERT INTO name_claims AS c (vault_id, name, hash, content) VALUES ($1, $2, $3, $4)
             ON CONFLICT (vault_id, name) DO UPDATE SET hash = c.hash RETURNING hash, content",
        )
        .bind(vault)
        .bind(&claim.name)
        .bind(claim.hash.as_slice())
        .bind(claim.content.as_deref())
        .fetch_one(&self.pool)
        .await
        .during("claim a name in the vault")?;
        let hash = hash.try_into().map_err(|hash: Vec<u8>| StoreError::Corrupt {
            what: format!("the hash of a claim to a name, of {} bytes", hash.len()),
        })?;
        Ok(Claim { name: claim.name.clone(), hash, content: content.map(Bytes::from) })
    }

    async fn release_name(&self, vault: Uuid, claim: &Claim) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM name_claims WHERE vault_id = $1 AND name = $2 AND hash = $3")
            .bind(vault)
            .bind(&claim.name)
            .bind(claim.hash.as_slice())
            .execute(&self.pool)
            .await
            .during("let a name in the vault go")?;
        Ok(())
    }
}
