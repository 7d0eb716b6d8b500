//! Who takes the name of an object, where the vault's storage does not say.

use std::time::Duration;

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

    fn stale(&self, vault: Uuid, age: Duration) -> BoxFuture<'_, Result<Vec<Claim>, ArbiterError>> {
        Box::pin(async move { Ok(self.stale_claims(vault, age).await?) })
    }
}

/// Name, hash and content.
type ClaimRow = (String, Vec<u8>, Option<Vec<u8>>);

fn to_claim((name, hash, content): ClaimRow) -> Result<Claim, StoreError> {
    let hash = hash.try_into().map_err(|hash: Vec<u8>| StoreError::Corrupt {
        what: format!("the hash of a claim to a name, of {} bytes", hash.len()),
    })?;
    Ok(Claim { name, hash, content: content.map(Bytes::from) })
}

impl Store {
    async fn claim_name(&self, vault: Uuid, claim: &Claim) -> Result<Claim, StoreError> {
        // The update changes nothing: it makes the row that is there visible, also one that was committed a moment ago.
        let (hash, content): (Vec<u8>, Option<Vec<u8>>) = sqlx::query_as(
            "INSERT INTO name_claims AS c (vault_id, name, hash, content) VALUES ($1, $2, $3, $4)
             ON CONFLICT (vault_id, name) DO UPDATE SET hash = c.hash
             RETURNING c.hash, CASE WHEN c.hash <> $3 THEN c.content END",
        )
        .bind(vault)
        .bind(&claim.name)
        .bind(claim.hash.as_slice())
        .bind(claim.content.as_deref())
        .fetch_one(&self.pool)
        .await
        .during("claim a name in the vault")?;
        to_claim((claim.name.clone(), hash, content))
    }

    async fn stale_claims(&self, vault: Uuid, age: Duration) -> Result<Vec<Claim>, StoreError> {
        let rows: Vec<ClaimRow> = sqlx::query_as(
            "SELECT name, hash, content FROM name_claims
             WHERE vault_id = $1 AND claimed_at <= now() - $2::interval AND content IS NOT NULL
             ORDER BY random() LIMIT 4",
        )
        .bind(vault)
        .bind(age)
        .fetch_all(&self.pool)
        .await
        .during("list old claims to names in the vault")?;
        rows.into_iter().map(to_claim).collect()
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
