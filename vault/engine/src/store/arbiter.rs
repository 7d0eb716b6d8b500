//! Who takes a name where the storage would let it be taken twice.
//!
//! A name is claimed for certain bytes before they are stored under it, and whoever has other bytes for it never writes there. A claim
//! is let go when the object is there: it is looked for after claiming, so a name that is taken needs no claim any more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tracing::{debug, info};
use uuid::Uuid;

use holdfast_vault_format::cell_hash;

use crate::{ArbiterError, VaultError, name};

use super::Storage;

/// How long one question may take, which may carry an object of many MiB. It is asked again as long as a write would be tried.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// A claim that is so old is nobody's who is at work: what it is for is stored for its owner.
const STALE: Duration = Duration::from_secs(600);

/// A name, and the bytes that are to be stored under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub name: String,
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// The bytes, unless they are a segment: whoever finds the claim of somebody who was killed stores them. Nobody needs the name of a
    /// segment but its writer.
    pub content: Option<Bytes>,
}

impl Claim {
    pub(crate) fn of(name: &str, bytes: &Bytes) -> Self {
        let content = (!name::is_segment(name)).then(|| bytes.clone());
        Self { name: name.to_owned(), hash: cell_hash(bytes), content }
    }

    /// What it is for.
    ///
    /// # Errors
    /// [`VaultError::Unfinished`] if that is its owner's to know.
    pub(crate) fn content(&self) -> Result<&Bytes, VaultError> {
        let object = || self.name.clone();
        let content = self.content.as_ref().ok_or_else(|| VaultError::Unfinished { object: object() })?;
        if cell_hash(content) == self.hash {
            Ok(content)
        } else {
            let source = "what is kept with its claim does not match its hash".into();
            Err(VaultError::Arbiter { object: object(), source })
        }
    }
}

/// Gives the names of vaults out. All gateways of a vault have to ask the same.
pub trait Arbiter: fmt::Debug + Send + Sync {
    /// Answers the claim that holds the name, durably: this one, unless there was another. Of this one the content may be left out.
    fn claim<'a>(&'a self, vault: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<Claim, ArbiterError>>;

    /// Forgets exactly this claim, if it is there.
    fn release<'a>(&'a self, vault: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<(), ArbiterError>>;

    /// Some of the claims with content that are at least so old.
    fn stale(&self, vault: Uuid, age: Duration) -> BoxFuture<'_, Result<Vec<Claim>, ArbiterError>>;
}

/// For who knows that nobody else writes to the vault.
#[derive(Debug)]
struct Alone;

impl Arbiter for Alone {
    fn claim<'a>(&'a self, _: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<Claim, ArbiterError>> {
        Box::pin(async move { Ok(claim.clone()) })
    }

    fn release<'a>(&'a self, _: Uuid, _: &'a Claim) -> BoxFuture<'a, Result<(), ArbiterError>> {
        Box::pin(async { Ok(()) })
    }

    fn stale(&self, _: Uuid, _: Duration) -> BoxFuture<'_, Result<Vec<Claim>, ArbiterError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// An arbiter and the vault it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arbitration<'a> {
    arbiter: &'a dyn Arbiter,
    vault: Uuid,
}

impl Arbitration<'_> {
    /// Answers the claim that holds the name. Asks again for so long.
    pub(crate) async fn claim(&self, claim: &Claim, patience: Duration) -> Result<Claim, VaultError> {
        let give_up_at = Instant::now() + patience;
        loop {
            let error = match in_time(self.arbiter.claim(self.vault, claim)).await {
                Ok(holder) => return Ok(holder),
                Err(error) => error,
            };
            let wait = PAUSE.mul_f64(rand::random());
            if Instant::now() + wait >= give_up_at {
                return Err(VaultError::Arbiter { object: claim.name.clone(), source: error });
            }
            info!(name = claim.name, %error, "who takes a name is not known: again");
            tokio::time::sleep(wait).await;
        }
    }

    /// What cannot be let go now is let go when it is stale.
    pub(crate) async fn release(&self, claim: &Claim) {
        if let Err(error) = in_time(self.arbiter.release(self.vault, claim)).await {
            debug!(name = claim.name, %error, "a name that was taken stays claimed");
        }
    }

    pub(crate) async fn stale(&self) -> Result<Vec<Claim>, VaultError> {
        let stale = in_time(self.arbiter.stale(self.vault, STALE)).await;
        stale.map_err(|source| VaultError::Arbiter { object: "claims".to_owned(), source })
    }
}

async fn in_time<T>(asked: BoxFuture<'_, Result<T, ArbiterError>>) -> Result<T, ArbiterError> {
    tokio::time::timeout(PATIENCE, asked).await.map_err(ArbiterError::from).flatten()
}

impl Storage {
    /// The same; who is asked for names in a vault whose storage does not give them out.
    #[must_use]
    pub fn with_arbiter(self, arbiter: Arc<dyn Arbiter>) -> Self {
        Self { arbiter: Some(arbiter), ..self }
    }

    /// The same, for who knows that nobody else creates anything in the vault meanwhile.
    #[must_use]
    pub fn alone(self) -> Self {
        self.with_arbiter(Arc::new(Alone))
    }

    /// The same, for a vault whose names the storage does not give out.
    pub(crate) fn arbitrated(self, vault: Uuid) -> Self {
        Self { arbitrated: Some(vault), ..self }
    }

    pub(crate) fn is_arbitrated(&self) -> bool {
        self.arbitrated.is_some()
    }

    /// Who is asked before an object is created; `None` where the storage itself refuses the second one.
    ///
    /// # Errors
    /// [`VaultError::NoArbiter`] if somebody has to be asked and is not known.
    pub(crate) fn arbitration(&self) -> Result<Option<Arbitration<'_>>, VaultError> {
        let Some(vault) = self.arbitrated else { return Ok(None) };
        let arbiter = self.arbiter.as_deref().ok_or(VaultError::NoArbiter)?;
        Ok(Some(Arbitration { arbiter, vault }))
    }
}
